"""An export: the same model in a folder of its own, and the same again in ONNX."""

import json
import os
import re
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mple import onnx_graphs
from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.export import distinct, export, main, options
from mple.model.length import LengthPredictor
from mple.model.nat import NAT
from mple.model_card import without_places
from mple.trained import load
from mple.translate import Translator
from mple.types import MASK, PAD
from mple.vanilla_input.uniform_copy import UniformCopy
from tests.fakes import VOCABULARY, autoregressive, nat, sources, tiny_size
from tests.runs import SIGNATURE, asks_a_teacher, random_run, sentences

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "nat": random_run(root, "+experiment=glat_raw"),
        "separate": random_run(root, "+experiment=vanilla_raw", "data.vocabulary.joint=false"),
        "words": random_run(
            root,
            "+experiment=vanilla_raw",
            "data.vocabulary._target_=mple.data.vocabulary.Words",
            "~data.vocabulary.joint",
        ),
        "at": random_run(root, "+experiment=at", "size=base"),
    }


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("exports") / "nat"
    assert export(runs["nat"], to) == []
    return to


@pytest.mark.parametrize("name", ["nat", "separate", "words", "at"])
def test_an_export_translates_as_its_run_does(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    export(runs[name], tmp_path / "to", onnx=False)
    own, given = load(runs[name]), load(tmp_path / "to")
    weights = own.model.state_dict()
    assert weights.keys() == given.model.state_dict().keys()
    for key, value in given.model.state_dict().items():
        assert value.dtype == weights[key].dtype
        assert torch.equal(value, weights[key])
    text = (
        "".join(s + "\n" for s in [*sentences(20, seed=3), "", "☃ mann"]).encode().splitlines(keepends=True)
    )
    found = [[t.text for bucket in Translator(t).stream(text) for t in bucket] for t in (own, given)]
    assert found[0] == found[1]
    assert len(set(found[0])) > 5
    assert (own.max_length, own.languages, own.decoding) == (
        given.max_length,
        given.languages,
        given.decoding,
    )


def test_every_file_has_the_mode_of_an_ordinary_one(runs: dict[str, Path], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        export(runs["nat"], tmp_path / "to")
    finally:
        os.umask(before)
    own = [path for path in (tmp_path / "to").iterdir() if path.is_file()]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in own} == {
        path.name: 0o640 for path in own
    }


def test_a_run_that_asks_a_teacher_says_in_its_card_how(runs: dict[str, Path], tmp_path: Path) -> None:
    assert "teacher" not in _usage(runs["nat"], tmp_path / "plain")
    npd = asks_a_teacher(random_run(tmp_path / "npd", "+experiment=vanilla_raw"))
    use = _usage(npd, tmp_path / "asks")
    assert "translate.py run=path/to/this/folder teacher=path/to/teacher <" in use
    code = use.split("```python\n")[1].split("```")[0].replace('["..."]', 'found := ["der hund"]')
    code = code.replace("path/to/this/folder", str(tmp_path / "asks"))
    own = random_run(tmp_path / "npd", "+experiment=at", "size=base")
    names: dict[str, Any] = {}
    exec(code.replace("path/to/teacher", str(own)), names)
    assert names["trained"].translate(["der hund"])[0]


def _usage(run: Path, to: Path) -> str:
    export(run, to, onnx=False)
    return (to / "README.md").read_text().split("## Use")[1].split("## Method")[0]


def test_a_shared_tensor_is_stored_once(exported: Path, runs: dict[str, Path]) -> None:
    stored = load_file(exported / "model.safetensors")
    names = {f"{side}.embedding.tokens.weight" for side in ("encoder", "decoder")}
    assert len(names & set(stored)) == 1
    assert len(names & set(distinct(load(runs["separate"]).model))) == 2


def test_the_folder_holds_what_it_says_and_nothing_of_the_machine(
    exported: Path, runs: dict[str, Path]
) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("model.safetensors", "config.yaml", "vocabulary", "metrics.json", "export.json", "README.md"),
        *("encoder.onnx", "decoder.onnx"),
    }
    config = yaml.safe_load((exported / "config.yaml").read_text())
    assert config["data"]["root"] is None
    assert config["data"]["source"]["root"] is None
    assert "outputs" not in config
    machine = str(runs["nat"].parents[4])
    assert machine in (runs["nat"] / "config.yaml").read_text()
    for path in exported.rglob("*"):
        assert path.is_dir() or machine.encode() not in path.read_bytes(), path


def test_the_card_has_the_run_s_numbers_and_how_they_came_about(
    exported: Path, runs: dict[str, Path]
) -> None:
    card = (exported / "README.md").read_text()
    metrics = json.loads((runs["nat"] / "metrics.json").read_text())
    assert "| tokenised_bleu | 12.35 | 13.5 |" in card or "| tokenised_bleu | 12.34 | 13.5 |" in card
    assert "| nat_loss_raw_bits_per_token | 2.5 | – |" in card
    assert SIGNATURE.replace("|", "\\|") in card
    assert metrics["commit"] in card
    assert f"{metrics['parameters']:,} parameters" in card
    assert "A non-autoregressive Transformer" in card
    assert "data.root=FOLDER" in card
    assert "`Glancing(" in card


def test_hostile_texts_are_escaped_in_the_card(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["nat"], tmp_path / "run"))
    bad = "x`|</td><script>alert(1)</script>\x1b\n# more"
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("checksum", None)
    metrics |= {key: bad for key in ("experiment", "data", "machine", "commit", "command")}
    (run / "metrics.json").write_text(json.dumps(metrics | {"signatures": {bad: bad}}))
    export(run, tmp_path / "export", onnx=False)
    card = (tmp_path / "export" / "README.md").read_text()
    outside_code = re.sub(r"`[^`\n]*`", "", card)
    assert "<script>" not in outside_code
    assert "\x1b" not in card
    assert "\n# more" not in card


def test_a_command_without_its_places() -> None:
    command = "python train.py +experiment=at data.root=/a/b outputs=/c data.path='x y' seed=1 start=/d/e.pt"
    expected = (
        "python train.py +experiment=at data.root=FOLDER outputs=FOLDER data.path=FOLDER seed=1 start=FOLDER"
    )
    assert without_places(command) == expected


def test_an_autoregressive_run_says_that_there_is_no_onnx(runs: dict[str, Path], tmp_path: Path) -> None:
    (note,) = export(runs["at"], tmp_path / "at")
    assert "non-autoregressive models only" in note
    assert not list((tmp_path / "at").glob("*.onnx"))
    card = (tmp_path / "at" / "README.md").read_text()
    assert "An autoregressive Transformer" in card
    assert "## ONNX" not in card
    assert "proxy_target" not in card


def test_without_onnx_installed_the_rest_is_exported(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    (note,) = export(runs["nat"], tmp_path / "to")
    assert "onnx is not installed" in note
    assert not list((tmp_path / "to").glob("*.onnx"))
    load(tmp_path / "to")


# --- the target ----------------------------------------------------------------------------------------


def test_an_export_of_the_same_run_is_replaced_and_of_another_only_by_force(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    to = tmp_path / "to"
    export(runs["nat"], to, onnx=False)
    (to / "old").write_text("")
    export(runs["nat"], to, onnx=False)
    assert not (to / "old").exists()
    with pytest.raises(UserError, match=r"holds glat_raw/text_de-en/.* \(force=true replaces it\)"):
        export(runs["separate"], to, onnx=False)
    assert load(to).config["name"] == "glat_raw"
    assert export(runs["separate"], to, force=True, onnx=False) == []
    assert load(to).config["name"] == "vanilla_raw"
    assert {path.name for path in tmp_path.iterdir()} == {"to"}


def test_what_is_no_export_is_refused_and_never_deleted(runs: dict[str, Path], tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    export(runs["nat"], to, onnx=False)  # an empty folder is free
    shutil.rmtree(to)
    for kept in ("to.before", "to.before2"):
        to.mkdir()
        (to / "thesis.txt").write_text(kept)
        with pytest.raises(UserError, match="holds other things"):
            export(runs["nat"], to, onnx=False)
        (note,) = export(runs["nat"], to, force=True, onnx=False)
        assert str(tmp_path / kept) in note
        assert (tmp_path / kept / "thesis.txt").read_text() == kept
        shutil.rmtree(to)


def test_an_export_that_fails_leaves_no_trace(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "to"
    export(runs["nat"], to, onnx=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def fails(*_: Any) -> str:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("mple.export.model_card", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        export(runs["nat"], to, onnx=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_untested_run_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs["nat"], tmp_path / "copy"))
    (copy / "metrics.json").unlink()
    with pytest.raises(UserError, match="run must be finished"):
        export(copy, tmp_path / "to")


def test_the_command_s_arguments(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert options(["run=a=b", "to=c", "force=True", "onnx=false"]) == ("a=b", "c", True, False)
    for wrong, message in (
        (["run=a"], "to must name a folder"),
        (["run=a", "to=b", "forced=true"], "one of run=, to=, force=, onnx=; got 'forced=true'"),
        (["run=a", "to=b", "onnx=maybe"], "onnx must be true or false; got 'maybe'"),
        (["a", "b"], "got 'a'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            options(wrong)
    main(["--help"])
    assert "python -m mple.export run=" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        main(["run=nowhere", f"to={tmp_path / 'to'}"])
    assert status.value.code == 2
    assert capsys.readouterr().err.startswith("error: run must be the folder")
    main([f"run={runs['at']}", f"to={tmp_path / 'to'}"])
    assert capsys.readouterr().out.splitlines()[-1] == f"in {tmp_path / 'to'}"


# --- ONNX ----------------------------------------------------------------------------------------------


class Sessions:
    def __init__(self, folder: Path) -> None:
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
            for name in (onnx_graphs.ENCODER, onnx_graphs.DECODER)
        )

    def encode(self, src_tokens: torch.Tensor) -> list[np.ndarray]:
        return self.encoder.run(None, {"src_tokens": src_tokens.numpy()})

    def decode(self, tokens: torch.Tensor, src_tokens: torch.Tensor, states: np.ndarray) -> np.ndarray:
        inputs = {"tokens": tokens.numpy(), "src_tokens": src_tokens.numpy(), "states": states}
        (logits,) = self.decoder.run(None, inputs)
        return logits


SHAPES = [
    ([1], [1]),
    ([4], [7]),
    ([5, 5], [3, 3]),  # no padding anywhere, the example of the trace had some
    ([2, 9, 4], [6, 1, 11]),
    ([30, 1, 12, 7, 7, 3], [1, 30, 2, 9, 9, 4]),
]


@pytest.mark.parametrize("settings", [{}, {"norm": "post", "encoder_layers": 2}, {"num_heads": 4}])
def test_onnx_says_what_the_model_says(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = nat(seed=3, is_joint="norm" not in settings, **settings)
    onnx_graphs.write(model, tmp_path)
    sessions = Sessions(tmp_path)
    generator = torch.Generator().manual_seed(1)
    for src_lengths, lengths in SHAPES:
        src_tokens = sources(src_lengths, seed=2)
        found = sessions.encode(src_tokens)
        inputs = model.blank(torch.tensor(lengths))
        is_shown = inputs.is_canvas & (torch.rand(inputs.tokens.shape, generator=generator) < 0.4)
        shown = torch.randint(6, VOCABULARY, inputs.tokens.shape, generator=generator)
        tokens = torch.where(is_shown, shown, inputs.tokens)
        with torch.no_grad():
            encoder_out = model.encode(src_tokens)
            expected = model.decode(type(inputs)(tokens, is_shown), encoder_out).logits
            predicted, _ = model.length.predict(encoder_out)
        real = ~encoder_out.is_pad
        np.testing.assert_allclose(found[0][real.numpy()], encoder_out.states[real], atol=1e-5, rtol=0)
        assert found[1].tolist() == predicted[:, 0].tolist()
        np.testing.assert_allclose(found[2], model.length.log_probs(encoder_out).detach(), atol=1e-5, rtol=0)
        is_canvas = tokens != PAD
        logits = sessions.decode(tokens, src_tokens, found[0])
        np.testing.assert_allclose(logits[is_canvas.numpy()], expected[is_canvas], atol=1e-5, rtol=0)


def test_the_card_s_onnx_code_decodes_as_argmax_does(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load(exported)
    src_tokens = trained.src_tokens(trained.encode(["mann", "die frau läuft", "der hund"]))
    card = (exported / "README.md").read_text()
    code = card.split("## ONNX")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported)
    names: dict[str, Any] = {"src_tokens": src_tokens.numpy()}
    exec(code, names)
    expected = Argmax()(trained.model, src_tokens).tokens  # type: ignore[arg-type]
    assert names["said"].tolist() == expected.tolist()
    assert MASK in names["tokens"]


def test_a_decoder_that_copies_the_source_has_no_graphs(tmp_path: Path) -> None:
    length = partial(LengthPredictor, max_offset=3)
    model = NAT(
        tiny_size(), length, VOCABULARY, VOCABULARY, is_joint=True, vanilla_input=UniformCopy()
    ).eval()
    with pytest.raises(UserError, match="vanilla_input=mask; this one's is UniformCopy"):
        onnx_graphs.write(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_distinct_keeps_every_weight_of_a_model_that_shares_none() -> None:
    model = autoregressive(is_joint=False)
    assert distinct(model).keys() == model.state_dict().keys()


def test_a_graph_that_says_something_else_is_noticed(tmp_path: Path) -> None:
    onnx_graphs.write(nat(seed=1), tmp_path)
    with pytest.raises(UserError, match="they differ by"):
        onnx_graphs._compare(nat(seed=2), tmp_path)


def test_the_card_has_l_mple_where_it_was_measured(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["nat"], tmp_path / "run"))
    export(run, tmp_path / "before", onnx=False)
    assert "Not measured; `python evaluate.py" in (tmp_path / "before" / "README.md").read_text()
    values = {"nat_loss": 2.5, "target_loss": -6.25, "input_loss": 0.5, "mple_loss": -3.25}
    metrics = {
        f"{name}{end}_bits_per_token": value + move
        for name, value in values.items()
        for end, move in (("", 0), ("_low", -0.125), ("_high", 0.125))
    }
    command = f"python evaluate.py run={run} estimator=mple"
    report = {"command": command, "metrics": metrics | {"beta": 0.2}}
    (run / "evaluations").mkdir()
    (run / "evaluations" / "mple-0.json").write_text(json.dumps(report))
    export(run, tmp_path / "after", onnx=False)
    card = (tmp_path / "after" / "README.md").read_text()
    assert "| mple_loss | -3.250 | -3.375 | -3.125 |" in card.replace("`mple_loss`", "mple_loss")
    assert "β = 0.2: `python evaluate.py run=FOLDER estimator=mple`" in card
    export(runs["at"], tmp_path / "at", onnx=False)
    assert "L_MPLE" not in (tmp_path / "at" / "README.md").read_text()
