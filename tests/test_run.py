"""What a run is made from: recorded by content, compared before anything is measured or continued."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from mple.checks import UserError
from mple.data.vocabulary import load_vocabularies
from mple.evaluation.finished import Finished
from mple.evaluation.text import Text
from mple.evaluation.total_correlation import TotalCorrelation
from mple.run import MadeFrom
from tests.runs import CONF, job, random_run, text_job, write_corpus

TATOEBA = ["data=tatoeba", "data.vocabulary.size=60", "data.source.valid=5", "data.source.test=5"]
HUB = ["data=iwslt14_de_en", "data.vocabulary.size=45", "budget=minutes"]
GRAMMAR = ["data=grammar", "data.source.train=100", "data.source.valid=5", "data.source.test=5"]
SYNTHETIC = ["data=synthetic_a", "data.vocabulary.size=60", "data.source.text.valid=valid"]
SYNTHETIC += ["data.source.text.test=test"]


def opened(folder: Path, root: str | None = None) -> Finished:
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(str(CONF), version_base="1.3")
    return Finished.open(folder, "cpu", root=root)


def reverse_words(path: Path) -> None:
    """Other words of the same letters, in every second line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [" ".join(w[::-1] for w in line.split()) if k % 2 else line for k, line in enumerate(lines)]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def write_tsv(root: Path) -> Path:
    root.mkdir()
    pairs = (f"a{k} dog {k % 7}\tein{k} Hund {k % 7}\n" for k in range(60))
    (root / "en-de.tsv").write_text("".join(pairs), encoding="utf-8")
    return root


def write_hub(root: Path) -> Path:
    root.mkdir()
    names = {"train": "train", "validation": "valid", "test": "test"}
    files = "".join(f"  - split: {split}\n    path: {name}.jsonl\n" for split, name in names.items())
    head = f"---\nconfigs:\n- config_name: de-en\n  data_files:\n{files}---\n"
    (root / "README.md").write_text(head, encoding="utf-8")
    for number, name in enumerate(names.values()):
        pairs = ({"de": f"ein Hund {k % 7} {number}", "en": f"a dog {k % 7} {number}"} for k in range(40))
        rows = "".join(json.dumps({"translation": pair}) + "\n" for pair in pairs)
        (root / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    return root


def replace_in(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new), encoding="utf-8")

    return edit


@pytest.mark.parametrize(
    ("overrides", "write", "edit", "named"),
    [
        (TATOEBA, write_tsv, replace_in("en-de.tsv", "Hund", "Dnuh"), r"\(sha256\)"),
        (HUB, write_hub, replace_in("test.jsonl", "dog", "god"), r"\(test\.jsonl\)"),
        (HUB, write_corpus, replace_in("train.de", "frau", "fuar"), r"\(train\.de\)"),
        (SYNTHETIC, write_corpus, replace_in("train.en", "dog", "god"), r"\(train\.en\)"),
    ],
    ids=["tatoeba", "hub layout", "hub plain files", "synthetic"],
)
def test_finished_run_refuses_edited_corpus(
    tmp_path: Path, overrides: list[str], write: Callable, edit: Callable, named: str
) -> None:
    root = write(tmp_path / "corpus")
    data = [*overrides, f"data.root={root}"]
    folder = random_run(tmp_path, "+experiment=vanilla_raw", data=data)
    again = text_job(tmp_path, "+experiment=vanilla_raw", data=data)
    assert again.execute()["test"]["tokenised_bleu"] == 12.345  # finished already
    assert opened(folder).data.corpus("test").fingerprint
    edit(root)
    again = text_job(tmp_path, "+experiment=vanilla_raw", data=data)
    with pytest.raises(UserError, match=rf"was made from other data {named}: .*data\.name=NAME"):
        again.execute()
    with pytest.raises(UserError, match=rf"was made from other data {named}: .*data\.root=FOLDER"):
        _ = opened(folder).data


def test_finished_run_refuses_another_grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of sentences are in the key; another version of the grammar's code is not."""
    folder = random_run(tmp_path, "+experiment=vanilla_raw", data=GRAMMAR)
    first = opened(folder).job.source
    inputs = first.inputs()
    monkeypatch.setattr(type(first), "inputs", lambda _: inputs | {"sha256": "0" * 64})
    with pytest.raises(UserError, match=r"was made from other data \(sha256\)"):
        text_job(tmp_path, "+experiment=vanilla_raw", data=GRAMMAR).execute()


def test_another_seed_of_other_data_is_refused(tmp_path: Path) -> None:
    """A table has the mean over seeds, so they must be of one corpus."""
    random_run(tmp_path, "+experiment=vanilla_raw")
    reverse_words(tmp_path / "corpus" / "train.en")
    overrides = text_job(tmp_path / "other", "+experiment=vanilla_raw", "seed=2").overrides
    other = [o.replace(str(tmp_path / "other"), str(tmp_path)) for o in overrides]
    with pytest.raises(UserError, match=r"seed1 was made from other data \(train\.en\)"):
        job(*other).execute()


def test_training_text_in_a_folder_of_its_own_is_in_every_key(tmp_path: Path) -> None:
    """Six files of one name are six inputs."""
    root = tmp_path / "corpus"
    write_corpus(root)
    for split in ("train", "valid", "test"):
        (root / split).mkdir()
        for side in ("de", "en"):
            (root / f"{split}.{side}").rename(root / split / f"text.{side}")
    splits = [f"data.source.{split}={split}/text" for split in ("train", "valid", "test")]
    data = ["data=text", f"data.root={root}", "data.src_lang=de", "data.tgt_lang=en", *splits]
    data.append("data.vocabulary.size=90")
    made = text_job(tmp_path, "+experiment=vanilla_raw", data=data)
    assert len(made.source.inputs()) == 6
    before = made.data(0).preparation.stages()
    folder = random_run(tmp_path, "+experiment=vanilla_raw", data=data)
    for side in ("de", "en"):
        path = root / "train" / f"text.{side}"
        path.write_text("".join(path.read_text("utf-8").splitlines(True)[:100]), encoding="utf-8")
    after = text_job(tmp_path, "+experiment=vanilla_raw", data=data).data(0).preparation.stages()
    assert all(before[name].key != after[name].key for name in ("vocabulary", "train", "valid", "test"))
    with pytest.raises(UserError, match=r"was made from other data \(train/text\.de, train/text\.en\)"):
        _ = opened(folder).data


def test_swapped_splits_are_other_stages(tmp_path: Path) -> None:
    data = ["data=text", f"data.root={write_corpus(tmp_path / 'corpus')}", "data.src_lang=de"]
    data += ["data.tgt_lang=en", "data.vocabulary.size=90"]
    swap = ["data.source.valid=test", "data.source.test=valid"]
    stages = [
        text_job(tmp_path, "+experiment=vanilla_raw", data=[*data, *more]).data(0).preparation.stages()
        for more in ([], swap)
    ]
    assert stages[0]["valid"].key != stages[1]["valid"].key


def as_version_0_1(folder: Path, root: Path, *, packed: bool = False) -> None:
    """The folder as the previous version left it: the manifest of the vocabulary has the files by name."""
    (folder / "data.json").unlink()
    path = folder / "vocabulary" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest.pop("checksum", None)
    by_content = dict(manifest["inputs"])
    names = [f"{split}.{side}" for split in ("train", "valid", "test") for side in ("de", "en")]
    manifest["inputs"] = dict(zip(names, by_content.values(), strict=True))
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_run_of_version_0_1_is_recognised_by_its_files(tmp_path: Path) -> None:
    folder, root = random_run(tmp_path, "+experiment=vanilla_raw"), tmp_path / "corpus"
    as_version_0_1(folder, root)
    again = text_job(tmp_path, "+experiment=vanilla_raw")
    assert again.execute()["test"]["tokenised_bleu"] == 12.345
    assert Text()(opened(folder))
    packed = root / "valid.de"
    (root / "valid.de.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    assert Text()(opened(folder))
    reverse_words(root / "test.en")
    for measure in (lambda: job(*again.overrides).execute(), lambda: opened(folder).data):
        with pytest.raises(UserError, match=r"was made from other data \(test\.en\)"):
            measure()
    packed = root / "valid.de.gz"
    packed.write_bytes(gzip.compress(b"anderes\n" * 10))
    with pytest.raises(UserError, match=r"was made from other data \(test\.en, valid\.de\)"):
        _ = opened(folder).data


def test_run_is_measured_with_its_own_vocabulary(tmp_path: Path) -> None:
    """Another version of SentencePiece may learn other pieces of the same text."""
    folder = random_run(tmp_path / "one", "+experiment=vanilla_raw")
    expected = Text()(opened(folder))
    other = random_run(tmp_path / "two", "+experiment=vanilla_raw", "data.vocabulary.size=80")
    (stage,) = (tmp_path / "one" / "outputs" / "data" / "text_de-en").glob("vocabulary-*")
    for side in ("src", "tgt"):
        shutil.rmtree(stage / side)
        shutil.copytree(other / "vocabulary" / side, stage / side)
    run = opened(folder)
    own = load_vocabularies(folder / "vocabulary")[0]
    assert run.data.src_vocabulary.fingerprint == own.fingerprint
    assert Text()(run) == expected


def test_edited_vocabulary_of_a_run_is_refused(tmp_path: Path) -> None:
    folder = random_run(tmp_path / "one", "+experiment=vanilla_raw")
    made = MadeFrom.read(folder)
    assert made is not None
    other = random_run(
        tmp_path / "two", "+experiment=vanilla_raw", "data.vocabulary.joint=false", "data.vocabulary.size=70"
    )
    shutil.rmtree(folder / "vocabulary")
    shutil.copytree(other / "vocabulary", folder / "vocabulary")
    with pytest.raises(UserError, match="was made with other vocabularies"):
        _ = opened(folder).data


def test_other_run_of_an_estimator_is_checked_too(tmp_path: Path) -> None:
    nat = random_run(tmp_path / "nat", "+experiment=vanilla_raw")
    at = random_run(tmp_path / "at", "+experiment=at", "size=student")
    reverse_words(tmp_path / "at" / "corpus" / "test.en")
    with pytest.raises(UserError, match=r"at_student.* was made from other data \(test\.en\)"):
        TotalCorrelation(at=str(at))(opened(nat))


def test_raw_data_are_read_where_the_command_was_run_or_where_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    data = [
        "data=text",
        "data.root=corpus",
        "data.src_lang=de",
        "data.tgt_lang=en",
        "data.vocabulary.size=90",
    ]
    folder = random_run(tmp_path, "+experiment=vanilla_raw", data=data)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = Text()(opened(folder))
    (tmp_path / "corpus").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"data\.root must be .* got 'corpus' \(in .*elsewhere\)"):
        _ = opened(folder).data
    assert Text()(opened(folder, root="../moved")) == expected
    reverse_words(tmp_path / "moved" / "test.en")
    with pytest.raises(UserError, match=r"other data \(test\.en\)"):
        _ = opened(folder, root="../moved").data


def test_root_of_data_without_files_is_refused(tmp_path: Path) -> None:
    folder = random_run(tmp_path, "+experiment=vanilla_raw", data=GRAMMAR)
    with pytest.raises(UserError, match=r"data\.root must be null for vanilla_raw seed 1"):
        _ = opened(folder, root=str(tmp_path)).job


def test_run_is_measured_without_the_weights_that_it_started_from(tmp_path: Path) -> None:
    first = random_run(tmp_path, "+experiment=vanilla_raw")
    weights = shutil.copy(first / "averaged.pt", tmp_path / "first.pt")
    folder = random_run(tmp_path, "+experiment=vanilla_raw", f"start={weights}", "name=second")
    expected = Text()(opened(folder))
    (tmp_path / "first.pt").unlink()
    assert Text()(opened(folder)) == expected


@pytest.mark.parametrize("name", ["out (1)", "a,b", "run=3", "c#", "Jürgen", "x: y", "[d]", "it's \\'", "~"])
def test_run_is_opened_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = random_run(tmp_path / "plain", "+experiment=vanilla_kd")
    outputs = folder.parents[3]
    moved = outputs.rename(tmp_path / name) / folder.relative_to(outputs)
    run = opened(moved)
    assert run.job.cfg.outputs == str(tmp_path / name)
    assert run.job.teachers()["base"].distilled_folder().is_relative_to(tmp_path / name)
    assert Text()(run)
