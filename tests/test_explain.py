"""Explanations: the model's own numbers, the proxy's own T and Z, and a page that a browser shows."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import hydra
import pytest
import torch

from mple.checks import UserError
from mple.decoding.decode import Decode
from mple.decoding.lengths import TopLengths
from mple.decoding.mask_predict import MaskPredict
from mple.explain import file_name, main, options, page
from mple.explanation import Explanation, explain
from mple.proxy.input_first import InputFirst
from mple.proxy_target import laid_out
from mple.proxy_target.axe import AXE
from mple.proxy_target.oaxe import OaXE
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.trained import Trained, load
from mple.types import BLANK, PAD, Batch
from tests.browser import Browser
from tests.runs import asks_a_teacher, random_run

SOURCE, REFERENCE = "der hund läuft", "the dog runs"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("explain")
    raw = ("proxy_target.reference._target_=mple.proxy_target.raw.Raw", "~proxy_target.reference.teacher")
    return {
        "vanilla": random_run(root, "+experiment=vanilla_raw"),
        "glat": random_run(root, "+experiment=glat_raw"),
        "levenshtein": random_run(root, "+experiment=glat_raw", "proxy_input.distance=levenshtein"),
        "cmlm": random_run(root, "+experiment=cmlm", "proxy_target=raw"),
        "axe": random_run(root, "+experiment=axe_tau1", "proxy_target.delta=0", *raw, seed=3),
        "oaxe": random_run(root, "+experiment=oaxe_10k", "start=null", *raw, seed=3),
        "axe_cmlm": random_run(root, "+experiment=axe_cmlm", "proxy_target.delta=0", *raw, seed=3),
        "npd": asks_a_teacher(random_run(root / "npd", "+experiment=vanilla_raw")),
        "at": random_run(root, "+experiment=at", "size=student"),
    }


def opened(folders: dict[str, Path], name: str) -> Trained:
    return load(folders[name])


def snapshot_of(trained: Trained, seed: int = 0) -> tuple[Batch, Snapshot]:
    src = trained.src_tokens(trained.encode([SOURCE]))
    tgt = torch.tensor([[int(i) for i in trained.tgt_vocabulary.encode([REFERENCE])[0]]])
    batch = Batch(torch.zeros(1, dtype=torch.long), src, tgt)
    encoder_out = trained.model.encode(src)
    lengths = torch.tensor([tgt.shape[1]])
    return batch, Snapshot(trained.model, encoder_out, batch.ids, lengths, Draws(seed, -1), 1, 1)  # type: ignore[arg-type]


@torch.no_grad()
def test_the_canvas_is_the_models(folders: dict[str, Path]) -> None:
    trained = opened(folders, "vanilla")
    found = explain(trained, SOURCE, top=3)
    model = trained.model
    src = trained.src_tokens(trained.encode([SOURCE]))
    encoder_out = model.encode(src)
    lengths, log_p = model.length.predict(encoder_out, 5)  # type: ignore[union-attr, operator]
    assert len(found.positions) == int(lengths[0, 0])
    assert dict(found.lengths)[int(lengths[0, 0])] == pytest.approx(float(log_p[0, 0].exp()))
    blank = model.blank(lengths[:, 0])  # type: ignore[union-attr, operator]
    probabilities = model.decode(blank, encoder_out).logits[0].softmax(-1)  # type: ignore[arg-type]
    for row, position in enumerate(found.positions):
        values, ids = probabilities[row, 6:].topk(3)
        assert position.piece == trained.tgt_vocabulary.pieces([int(ids[0]) + 6])[0]
        assert [p for _, p in position.top] == pytest.approx(values.tolist(), rel=1e-4)
        entropy = float(torch.distributions.Categorical(probabilities[row]).entropy()) / 0.6931472
        assert position.entropy == pytest.approx(entropy, rel=1e-4)
        before = found.positions[row - 1].piece if row else None
        assert position.repeats == (position.piece == before)
    assert found.output == trained.translate([SOURCE])[0]
    assert (found.glance, found.alignment, found.steps, found.hypotheses) == (None, None, (), ())


@torch.no_grad()
@pytest.mark.parametrize("name", ["glat", "levenshtein", "cmlm"])
def test_what_is_shown_is_what_the_proxy_input_shows(name: str, folders: dict[str, Path]) -> None:
    trained = opened(folders, name)
    found = explain(trained, SOURCE, REFERENCE, seed=4).glance
    assert found is not None
    proxy_input = hydra.utils.instantiate(trained.config["proxy_input"])
    batch, snapshot = snapshot_of(trained, seed=4)
    inputs = proxy_input(batch, Raw()(batch, snapshot), snapshot)
    assert found.revealed == tuple(inputs.revealed[0].tolist())
    assert "".join(found.pieces).replace("▁", " ").strip() == REFERENCE
    if name != "cmlm":
        assert found.distance is not None
        assert found.ratio == pytest.approx(0.3)
        assert sum(found.revealed) == int(0.3 * found.distance + 1e-9)
        assert found.distance_name == ("levenshtein" if name == "levenshtein" else "hamming")


@torch.no_grad()
@pytest.mark.parametrize(("name", "method"), [("axe", AXE(Raw(), delta=0)), ("oaxe", OaXE(Raw()))])
def test_the_alignment_is_that_of_the_proxy_target(
    name: str, method: AXE | OaXE, folders: dict[str, Path]
) -> None:
    trained = opened(folders, name)
    found = explain(trained, SOURCE, REFERENCE).alignment
    assert found is not None
    batch, snapshot = snapshot_of(trained)
    target = method.align(laid_out(batch.tgt_tokens), snapshot)
    assert list(found.said) == trained.tgt_vocabulary.pieces(target.tokens[0].tolist())
    for token, (place, skipped) in enumerate(zip(found.positions, found.skipped, strict=True)):
        assert skipped or found.said[place] == found.reference[token]
    kept = [place for place, skipped in zip(found.positions, found.skipped, strict=True) if not skipped]
    assert len(set(kept)) == len(kept)
    spoken = int(((target.tokens != BLANK) & (target.tokens != PAD)).sum())
    assert len(kept) == spoken
    if name == "oaxe":
        assert sorted(found.positions) == list(range(len(found.reference)))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_a_proxy_that_draws_z_first_is_shown_so(folders: dict[str, Path], seed: int) -> None:
    trained = opened(folders, "axe_cmlm")
    found = explain(trained, SOURCE, REFERENCE, seed=seed)
    assert found.glance is not None
    assert found.alignment is not None
    batch, snapshot = snapshot_of(trained, seed)
    proxy_input = hydra.utils.instantiate(trained.config["proxy_input"])
    target, inputs, _ = InputFirst(AXE(Raw(), delta=0), proxy_input)(batch, snapshot)
    pieces = trained.tgt_vocabulary.pieces
    assert found.glance.revealed == tuple(inputs.revealed[0].tolist())
    assert list(found.glance.pieces) == pieces(batch.tgt_tokens[0].tolist())
    assert list(found.alignment.said) == pieces(target.tokens[0].tolist())


def test_a_run_that_asks_a_teacher_is_explained_with_it(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"asks the teacher 'base': .* teacher=FOLDER"):
        explain(opened(folders, "npd"), SOURCE)
    to = tmp_path / "page.html"
    main([f"run={folders['npd']}", f"teacher={folders['at']}", f"to={to}", SOURCE])
    said = capsys.readouterr().out.splitlines()[0]
    npd = opened(folders, "npd")
    assert said == npd.with_decoding(npd.config["decoding"], opened(folders, "at")).translate([SOURCE])[0]
    assert said in to.read_text()


def test_the_steps_are_those_of_mask_predict(folders: dict[str, Path]) -> None:
    trained = opened(folders, "cmlm")
    found = explain(trained, SOURCE, iterations=3)
    assert len(found.steps) == 3
    assert all(found.steps[0].is_new)
    assert [position.piece for position in found.positions] == list(found.steps[0].pieces)
    decoding = Decode(TopLengths(beam=1), MaskPredict(3))
    said = decoding(trained.model, trained.src_tokens(trained.encode([SOURCE]))).tokens[0]  # type: ignore[arg-type]
    assert list(found.steps[-1].pieces) == trained.tgt_vocabulary.pieces(said[said != PAD].tolist())
    size = len(found.steps[0].pieces)
    for done, (before, step) in enumerate(zip(found.steps, found.steps[1:], strict=False), 1):
        assert sum(step.is_new) == max(1, size * (3 - done) // 3)
        for old, new, is_new in zip(before.pieces, step.pieces, step.is_new, strict=True):
            assert is_new or old == new


@torch.no_grad()
def test_hypotheses_have_the_probabilities_that_make_their_score(folders: dict[str, Path]) -> None:
    trained = opened(folders, "at")
    found = explain(trained, SOURCE, top=3).hypotheses
    assert len(found) == 3
    assert found[0].text == trained.translate([SOURCE])[0]
    for hypothesis in found:
        assert hypothesis.pieces[-1] == "<eos>"
        log_p = torch.tensor(hypothesis.probabilities, dtype=torch.float64).log().sum()
        assert float(log_p) == pytest.approx(hypothesis.score, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("vanilla", {"source": " "}, "must have 1 to 12 tokens"),
        ("vanilla", {"source": "hund " * 40}, "must have 1 to 12 tokens"),
        ("vanilla", {"iterations": 2}, "trained with a partly revealed Z"),
        ("vanilla", {"reference": " "}, "reference must have 1 to"),
        ("at", {"reference": "a dog"}, "reference is for a NAT"),
        ("at", {"iterations": 2}, "iterations is for a NAT"),
        ("vanilla", {"top": 0}, "top .pieces. must be"),
    ],
)
def test_what_cannot_be_explained(
    name: str, given: dict[str, object], message: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=message):
        explain(opened(folders, name), **({"source": SOURCE} | given))  # type: ignore[arg-type]


# --- the page ------------------------------------------------------------------------------------------


class Text(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_sentences_are_text_and_not_markup(folders: dict[str, Path]) -> None:
    trained = opened(folders, "vanilla")
    found = dataclasses.replace(explain(trained, SOURCE), source="<script>alert(1)</script>", output="<b>&")
    made = page(found)
    assert "script" not in Text(made).tags
    assert "&lt;script&gt;alert(1)" in made
    assert "http" not in made  # nothing is fetched


def explanations(folders: dict[str, Path]) -> dict[str, Explanation]:
    return {
        "glat": explain(opened(folders, "glat"), SOURCE, REFERENCE, iterations=3),
        "axe": explain(opened(folders, "axe"), SOURCE, REFERENCE),
        "oaxe": explain(opened(folders, "oaxe"), SOURCE, REFERENCE),
        "at": explain(opened(folders, "at"), SOURCE),
        "vanilla": explain(opened(folders, "vanilla"), SOURCE, REFERENCE),
    }


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it(width: int, folders: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    for name, found in explanations(folders).items():
        path = tmp_path / f"{name}.html"
        path.write_text(page(found))
        seen = browser.look(path, width)
        assert (seen.overflow, seen.messages) == (0, ()), name
        assert seen.requests == (path.as_uri(),)  # nothing else is fetched
        assert found.output in seen.text
        for position in found.positions:
            assert f"H {position.entropy:.1f}" in seen.text
        assert ("Mask-predict, 3 passes" in seen.text) == (name == "glat")
        assert ("the reference laid on the canvas" in seen.text) == (name in ("axe", "oaxe"))


def test_the_command_writes_a_page_a_sentence(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folders["vanilla"]
    main([f"run={run}", SOURCE])
    main([f"run={run}", "der hund"])
    names = sorted(path.name for path in (run / "explain").iterdir())
    assert names == sorted([file_name(SOURCE), file_name("der hund")])
    assert str(run / "explain" / file_name(SOURCE)) in capsys.readouterr().out
    main([f"run={run}", SOURCE, f"to={tmp_path / 'deep' / 'page.html'}"])
    assert (tmp_path / "deep" / "page.html").read_text() == (run / "explain" / file_name(SOURCE)).read_text()
    assert file_name("ab?") != file_name("ab!")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=x"], "exactly one sentence"),
        (["run=x", "a", "b"], "got 2"),
        (["a"], "run must be the folder"),
        (["run=x", "a", "tops=3"], "tops=3"),
        (["run=x", "a", "top=few"], "top must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(arguments)


def test_a_sentence_may_hold_an_equals_sign() -> None:
    assert options(["run=x", "2 + 2 = 4"])["sentence"] == "2 + 2 = 4"


def test_sentence_may_have_an_equals_sign() -> None:
    assert options(["run=R", "x=5 ist wahr"])["sentence"] == "x=5 ist wahr"
    assert options(["run=R", "sentence=top=5"])["sentence"] == "top=5"
    assert options(["run=R", "sentence=x=5", "top=3"])["top"] == 3
    for arguments in (["run=R", "iteration=4", "ein Mann"], ["run=R", "x=5 ist wahr", "sentence=x=5"]):
        with pytest.raises(UserError, match=r"one of run=.*iteration=4|exactly one sentence .* got 2"):
            options(arguments)
