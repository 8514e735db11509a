"""A finished run from its folder alone: everything that it needs is there, and nothing there is executed."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml

from mple.checks import UserError
from mple.data.vocabulary import WordVocabulary, load_vocabularies
from mple.model.autoregressive import Autoregressive
from mple.run import Run
from mple.trained import load
from tests.runs import CONF, MAX_LENGTH, job, random_run, sentences, text_job, write_corpus


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "nat": random_run(root, "+experiment=vanilla_raw"),
        "at": random_run(root, "+experiment=at", "size=base"),
        "glat": random_run(root, "+experiment=glat_raw"),
        "axe": random_run(root, "+experiment=axe_tau1"),
    }


@pytest.fixture
def copied(runs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs["nat"], tmp_path / "copied"))


class Danger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)  # type: ignore[return-value]


@pytest.mark.parametrize("experiment", [("vanilla_raw",), ("at", "size=base")])
def test_raw_text_is_translated_as_the_prepared_test_set_is(
    tmp_path: Path, experiment: tuple[str, ...]
) -> None:
    overrides = (f"+experiment={experiment[0]}", *experiment[1:])
    folder = random_run(tmp_path, *overrides)
    made = text_job(tmp_path, *overrides)
    data = made.data(0)
    data.setup()
    model = made.trained(data)
    expected: dict[int, str] = {}
    for batch in data.batches("test"):
        found = made.decoding(model, batch.src_tokens)
        expected |= dict(zip(batch.ids.tolist(), data.decode(found.tokens), strict=True))
    lines, texts, _ = data.text("test")
    shutil.rmtree(tmp_path / "outputs" / "data")  # the run's own folder must be enough
    shutil.rmtree(tmp_path / "corpus")
    assert load(folder).translate(texts) == [expected[int(line)] for line in lines]
    assert len(set(expected.values())) > 1


def test_the_weights_and_the_model_are_the_run_s_own(runs: dict[str, Path]) -> None:
    for name, folder in runs.items():
        trained, saved = load(folder), torch.load(folder / "averaged.pt", weights_only=True)
        own = trained.model.state_dict()
        assert {f"model.{key}" for key in own} == set(saved)
        assert all(torch.equal(value, saved[f"model.{key}"]) for key, value in own.items())
        assert not trained.model.training
        assert isinstance(trained.model, Autoregressive) == (name == "at")
        assert trained.max_length == MAX_LENGTH
        assert trained.languages == ("de", "en")
    assert load(runs["axe"]).model.first_sayable < load(runs["nat"]).model.first_sayable  # type: ignore[operator]


def test_loading_draws_nothing_from_the_global_generator(runs: dict[str, Path]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(runs["nat"])
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_above_one_run_is_that_run_and_above_several_is_refused(runs: dict[str, Path]) -> None:
    found = load(runs["nat"].parents[2])
    assert found.folder == runs["nat"]
    with pytest.raises(UserError, match="holds 4: "):
        load(runs["nat"].parents[3])


@pytest.mark.parametrize("missing", ["config.yaml", "averaged.pt", "vocabulary"])
def test_what_a_folder_lacks_is_said(copied: Path, missing: str) -> None:
    path = copied / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"lacks {missing}"):
        load(copied)


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds 0"):
        load(tmp_path)


def test_an_unfinished_run_says_how_to_go_on(copied: Path) -> None:
    (copied / "averaged.pt").unlink()
    with pytest.raises(UserError, match=r"not finished; to go on, python train.py .*experiment=vanilla_raw"):
        load(copied)


def test_a_vocabulary_of_another_size_is_refused(copied: Path, tmp_path: Path) -> None:
    other = random_run(tmp_path, "+experiment=vanilla_raw", "+data.vocabulary.sample=20")
    sizes = len(load_vocabularies(other / "vocabulary")[0]), len(load_vocabularies(copied / "vocabulary")[0])
    assert sizes[0] == sizes[1]  # of the same size it cannot be told apart
    weights = torch.load(copied / "averaged.pt", weights_only=True)
    for side in ("encoder", "decoder"):
        name = f"model.{side}.embedding.tokens.weight"
        weights[name] = torch.cat([weights[name], weights[name][:3]])
    torch.save(weights, copied / "averaged.pt")
    with pytest.raises(UserError, match=r"averaged.pt has 93 entries in its encoder, the vocabulary 90"):
        load(copied)


def test_a_pickle_that_would_run_code_is_refused_unread(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    torch.save({"model.x": Danger()}, copied / "averaged.pt")
    with pytest.raises(UserError, match="was not executed"):
        load(copied)
    assert not Path("touched").exists()


def test_an_empty_sentence_has_an_empty_translation(runs: dict[str, Path]) -> None:
    for name in ("nat", "at"):
        trained = load(runs[name])
        (said,) = trained.translate(["mann"])
        assert said
        assert trained.translate(["", "mann", " \t"]) == ["", said, ""]
        assert trained.translate([""]) == [""]
        assert trained.translate([]) == []


@pytest.mark.parametrize(
    "name", ["vocabulary/manifest.json", "vocabulary/src/vocabulary.json", "vocabulary/tgt/vocabulary.json"]
)
@pytest.mark.parametrize("content", [b'{"kind": ', b"\xff\xfe", b"[1]", b"{}"])
def test_a_json_file_that_is_none_is_named(copied: Path, name: str, content: bytes) -> None:
    if name != "vocabulary/manifest.json":
        (copied / "vocabulary" / "manifest.json").unlink()  # it has the checksums of the others
    (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} must (be a JSON file|hold a JSON object)") as caught:
        load(copied)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_lacks_its_words_is_named(copied: Path) -> None:
    (copied / "vocabulary" / "src" / "vocabulary.json").write_text('{"kind": "words"}')
    with pytest.raises(UserError, match=r"src/vocabulary\.json is damaged"):
        load(copied)
    (copied / "vocabulary" / "manifest.json").unlink()  # a run of an older version has no checksums
    with pytest.raises(UserError, match=r"src must hold a vocabulary; .*vocabulary\.json cannot be read"):
        load(copied)


def test_results_and_commands_that_are_no_json_are_named(copied: Path) -> None:
    (copied / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json must be a JSON file"):
        _ = load(copied).metrics
    (copied / "averaged.pt").unlink()
    (copied / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run\.json must hold a JSON object with command"):
        load(copied)


@pytest.mark.parametrize("value", [None, "long", 0])
def test_a_configuration_without_a_longest_sentence_is_refused(copied: Path, value: object) -> None:
    edit(copied, "data.max_length", value)
    with pytest.raises(UserError, match=r"data\.max_length of .*config\.yaml .*tokens.* must be"):
        load(copied)


def edit(folder: Path, path: str, value: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    node = config
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("module.model._target_", "os.system"),
        ("decoding", {"_target_": "subprocess.run", "args": "true"}),
        ("decoding", {"_target_": "mple.run.os.system", "command": "true"}),
        ("decoding", {"_target_": "mple.run.subprocess.Popen", "args": "true"}),
        ("decoding", {"_target_": "mple.run.write_text", "path": "x", "text": "x"}),
        ("decoding", {"_target_": "mple.run.Path"}),
        ("decoding.choice", {"deep": [{"_target_": "os.system"}]}),
        ("proxy_target._target_", "builtins.print"),
        ("module.model.length", "${oc.create:{_target_:os.system}}"),
    ],
)
def test_a_configuration_that_would_run_code_is_refused(copied: Path, path: str, value: Any) -> None:
    edit(copied, path, value)
    with pytest.raises(UserError, match=r"must (name one of|describe no object|be a value)"):
        load(copied)


def test_weights_of_another_model_are_refused_by_what_differs(copied: Path) -> None:
    edit(copied, "sizes.student.d_ff", 64)
    with pytest.raises(UserError, match=r"feed_forward.inner.weight is \(64, 16\) there and \(32, 16\) here"):
        load(copied)
    edit(copied, "sizes.student.decoder_layers", 2)
    edit(copied, "sizes.student.d_ff", 32)
    with pytest.raises(UserError, match=r"lacks decoder.layers.1"):
        load(copied)


def test_another_decoding_of_the_same_model(runs: dict[str, Path]) -> None:
    nat, at, glat = (load(runs[name]) for name in ("nat", "at", "glat"))
    beam = {"_target_": "mple.decoding.beam.Beam", "beam": 2}
    fill = {"_target_": "mple.decoding.mask_predict.MaskPredict", "iterations": 3}
    masks = {"_target_": "mple.decoding.decode.Decode", "fill": fill}
    argmax = {"_target_": "mple.decoding.argmax.Argmax"}
    assert at.with_decoding(beam).decoding.beam == 2  # type: ignore[union-attr]
    assert glat.with_decoding(masks).model is glat.model
    for trained, node, message in (
        (nat, beam, "any but beam for a NAT"),
        (at, argmax, "beam for an autoregressive"),
        (nat, masks, "partly revealed Z"),
        (nat, {**masks, "fill": {**fill, "iterations": 0}}, "decoding.fill.iterations"),
        (nat, {**argmax, "beams": 3}, "must fit this version"),
    ):
        with pytest.raises(UserError, match=message):
            trained.with_decoding(node)


def test_a_teacher_is_an_autoregressive_run_with_the_same_vocabularies(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    nat, at = load(runs["nat"]), load(runs["at"])
    node = {
        "_target_": "mple.decoding.decode.Decode",
        "choice": {"_target_": "mple.decoding.npd.TeacherScore"},
    }
    texts = sentences(3)
    chosen = nat.with_decoding(node, at).translate(texts)
    alone = nat.with_decoding({"_target_": "mple.decoding.decode.Decode"})
    for src, text in zip(alone.encode(texts), chosen, strict=True):  # one of the candidates, whoever chooses
        candidates = alone.decoding.candidates(alone.model, alone.src_tokens([src]))  # type: ignore[union-attr, arg-type]
        assert text in alone.texts(candidates.tokens[0])
    with pytest.raises(UserError, match=r"asks the teacher 'base': .* teacher=FOLDER"):
        nat.with_decoding(node).translate(texts)
    for trained, other_node in ((nat, nat.config["decoding"]), (at, at.config["decoding"])):
        with pytest.raises(UserError, match="teacher must be given only with a decoding that asks one"):
            trained.with_decoding(other_node, at)
    with pytest.raises(UserError, match="teacher must be an autoregressive run"):
        nat.with_decoding(node, nat)
    other = random_run(tmp_path, "+experiment=at", "size=base", "data.vocabulary.size=80")
    with pytest.raises(UserError, match="teacher must be an autoregressive run"):
        nat.with_decoding(node, load(other))


def test_a_run_keeps_its_vocabulary_whole_and_goes_on_with_no_other(tmp_path: Path) -> None:
    prepared = {name: tmp_path / name for name in ("one", "two")}
    for name, folder in prepared.items():
        for side in ("src", "tgt"):
            (folder / side).mkdir(parents=True)
            WordVocabulary([name]).save(folder / side)
        (folder / "manifest.json").write_text("{}")
    run = Run(tmp_path / "run", "e", "d", "k", 1)
    run.start("", "")
    before = set(run.folder.iterdir())
    for name in ("one", "one", "two"):  # before there is a checkpoint, another one may still come
        run.keep_vocabulary(prepared[name])
        assert load_vocabularies(run.vocabulary)[1].pieces([6]) == [name]
        assert set(run.folder.iterdir()) == before | {run.vocabulary}
    run.last.write_text("")
    (prepared["two"] / "manifest.json").write_text('{"versions": "others"}')
    run.keep_vocabulary(prepared["two"])
    with pytest.raises(UserError, match="the vocabulary that it began with"):
        run.keep_vocabulary(prepared["one"])
    assert load_vocabularies(run.vocabulary)[1].pieces([6]) == ["two"]


def test_a_run_is_not_taken_for_one_of_other_data(tmp_path: Path) -> None:
    """A run's key does not say where its data lay, nor what was in the files: their contents do."""
    random_run(tmp_path, "+experiment=at")
    finished = text_job(tmp_path, "+experiment=at")
    metrics = finished.execute()
    root = tmp_path / "corpus"

    (root / "valid.de.gz").write_bytes(gzip.compress((root / "valid.de").read_bytes()))
    (root / "valid.de").unlink()
    assert job(*finished.overrides).execute() == metrics  # packed in between
    root.rename(tmp_path / "moved")
    assert job(*finished.overrides).execute() == metrics  # a finished run needs no data

    write_corpus(root)
    (root / "test.en").write_text((root / "test.en").read_text().replace("man", "lad"))
    said = r"at_base/.* was made from other data \(test\.en\): .* data\.name=NAME"
    with pytest.raises(UserError, match=said):
        job(*finished.overrides).execute()
    assert job(*finished.overrides, "data.name=other").run.folder != finished.run.folder
    student = text_job(tmp_path, "+experiment=vanilla_kd")
    (root / "test.en").write_text((root / "test.en").read_text().replace("man", "lad"))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(UserError, match=said):
        student.execute()  # whose teacher it would be
    assert not list((tmp_path / "outputs").glob("vanilla_kd*"))
