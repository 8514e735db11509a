"""Length parallel decoding and the parts' composition against decoding each length on its own."""

from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch import Tensor

from mple.checks import UserError
from mple.decoding import Decoding
from mple.decoding import fill as fill_module
from mple.decoding.argmax import Argmax
from mple.decoding.choice import Choice, OwnScore
from mple.decoding.decode import Decode
from mple.decoding.fill import Fill, OnePass
from mple.decoding.lengths import Lengths, TopLengths, WindowLengths
from mple.decoding.mask_predict import MaskPredict
from mple.decoding.npd import TeacherScore
from mple.model.nat import NAT
from mple.types import BLANK, MASK, PAD, DecoderInput
from tests.fakes import CONTENT, count_decodes, nat, pad_right, sources

LENGTHS = [5, 2, 9, 1, 7]


def text(row: Tensor) -> list[int]:
    return [token for token in row.tolist() if token != PAD]


def decoded(model: NAT, src_tokens: Tensor, length: int) -> tuple[list[int], float]:
    """One sentence at one length, and Σ log P(t_i | Z*, X)."""
    inputs = DecoderInput(torch.full((1, length), MASK), torch.zeros(1, length, dtype=torch.bool))
    log_probs = model.decode(inputs, model.encode(src_tokens)).logits[0].log_softmax(-1)
    best = log_probs[:, CONTENT:].max(-1)
    return (best.indices + CONTENT).tolist(), float(best.values.sum())


@pytest.mark.parametrize(
    "lengths", [TopLengths(5), WindowLengths(4), TopLengths(4, 1.3), WindowLengths(3, 0.5)]
)
@pytest.mark.parametrize("with_length", [False, True])
@torch.no_grad()
def test_against_each_length_on_its_own(lengths: Lengths, with_length: bool) -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    decoding = Decode(lengths, choice=OwnScore(with_length))
    calls = count_decodes(model)
    found, best = decoding.candidates(model, src_tokens), decoding(model, src_tokens)
    assert len(calls.rows) == 2  # one pass for all candidates of one call
    assert calls.rows[0] == int((found.canvas > 0).sum())
    assert found.passes == best.passes == 1
    canvas, length_log_probs = lengths(model.length, model.encode(src_tokens), model.length.max_length)
    for row, source in enumerate(LENGTHS):
        drafts = []
        for length, log_prob in zip(canvas[row].tolist(), length_log_probs[row].tolist(), strict=True):
            if log_prob > -torch.inf:
                tokens, total = decoded(model, src_tokens[row : row + 1, : source + 1], length)
                drafts.append((total / length + with_length * log_prob, length, total, tokens))
        drafts.sort(key=lambda draft: -draft[0])
        count = len(drafts)
        assert found.canvas[row].tolist() == [draft[1] for draft in drafts] + [0] * (canvas.shape[1] - count)
        assert [text(found.tokens[row, k]) for k in range(count)] == [draft[3] for draft in drafts]
        assert found.ranks[row, :count].tolist() == pytest.approx([draft[0] for draft in drafts], abs=1e-4)
        assert found.scores[row, :count].tolist() == pytest.approx([draft[2] for draft in drafts], abs=1e-4)
        assert (found.scores[row, count:] == -torch.inf).all()
        assert (found.tokens[row, count:] == PAD).all()
        assert text(best.tokens[row]) == drafts[0][3]
        assert best.scores[row] == found.scores[row, 0]


@pytest.mark.parametrize("lengths", [TopLengths(1), WindowLengths(1)])
@pytest.mark.parametrize("fill", [OnePass(), MaskPredict(iterations=1)])
@torch.no_grad()
def test_one_candidate_is_argmax(lengths: Lengths, fill: Fill) -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    found, expected = Decode(lengths, fill)(model, src_tokens), Argmax()(model, src_tokens)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.scores, expected.scores)
    assert found.passes == expected.passes


@pytest.mark.parametrize("decoding", [Decode(TopLengths(5)), Decode(WindowLengths(5), deduplicate="token")])
@torch.no_grad()
def test_no_padding_and_no_batch_matters(decoding: Decode) -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    together = decoding.candidates(model, src_tokens)
    wider = decoding.candidates(model, pad_right(src_tokens, 6))
    assert torch.equal(wider.tokens, together.tokens)
    torch.testing.assert_close(wider.ranks, together.ranks, atol=1e-4, rtol=1e-5)
    for row, source in enumerate(LENGTHS):
        alone = decoding.candidates(model, src_tokens[row : row + 1, : source + 1])
        assert torch.equal(alone.canvas[0], together.canvas[row])
        assert list(map(text, alone.tokens[0])) == list(map(text, together.tokens[row]))
        torch.testing.assert_close(alone.ranks[0], together.ranks[row], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_the_shortest_source_has_each_length_once() -> None:
    model = nat(max_offset=6)
    found = Decode(TopLengths(13)).candidates(model, sources([1, 1]))
    for canvas in found.canvas.tolist():
        assert sorted(canvas) == [0] * 6 + list(range(1, 8))


@torch.no_grad()
def test_repeats_leave_the_text_and_not_the_score() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    before = Decode(TopLengths(3)).candidates(model, src_tokens)
    after = Decode(TopLengths(3), deduplicate="token").candidates(model, src_tokens)
    every = torch.zeros(20, dtype=torch.bool)
    every[CONTENT:] = True
    by_word = Decode(TopLengths(3), deduplicate="word").prepared(starts_word=every)
    assert torch.equal(by_word.candidates(model, src_tokens).tokens, after.tokens)  # every token is a word
    assert torch.equal(after.canvas, before.canvas)
    assert torch.equal(after.ranks, before.ranks)
    repeats = 0
    for old, new in zip(before.tokens.flatten(0, 1), after.tokens.flatten(0, 1), strict=True):
        expected = [b for a, b in zip([PAD, *text(old)], text(old), strict=False) if a != b]
        assert text(new) == expected
        repeats += len(text(old)) - len(expected)
    assert repeats


@torch.no_grad()
def test_blanks_leave_the_text_before_repeats_do() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    model.first_sayable = BLANK
    model.decoder.embedding.tokens.weight[BLANK] *= 4
    said = Argmax()(model, src_tokens)
    assert (said.tokens == BLANK).any()
    found = Decode(TopLengths(1))(model, src_tokens)
    without = [[token for token in text(row) if token != BLANK] for row in said.tokens]
    assert list(map(text, found.tokens)) == without
    assert torch.equal(found.scores, said.scores)
    once = Decode(TopLengths(1), deduplicate="token")(model, src_tokens)
    expected = [[b for a, b in zip([PAD, *row], row, strict=False) if a != b] for row in without]
    assert list(map(text, once.tokens)) == expected


@torch.no_grad()
def test_logits_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    whole = Decode(TopLengths(3)).candidates(model, src_tokens)
    monkeypatch.setattr(fill_module, "_CELLS", 7 * 20)
    parts = Decode(TopLengths(3)).candidates(model, src_tokens)
    assert torch.equal(parts.tokens, whole.tokens)
    torch.testing.assert_close(parts.ranks, whole.ranks)


def test_refusals() -> None:
    with pytest.raises(
        UserError, match=r"^decoding\.deduplicate must be one of none, token, word; got 'words'$"
    ):
        Decode(deduplicate="words")
    with pytest.raises(UserError, match=r"^decoding\.deduplicate=word needs to know where words begin"):
        Decode(deduplicate="word")(nat(), sources([3]))


def test_prepared_keeps_what_it_has() -> None:
    starts_word = torch.ones(20, dtype=torch.bool)
    decoding = Decode(deduplicate="word").prepared(starts_word=starts_word)
    assert decoding.prepared().starts_word is starts_word
    assert Argmax().prepared(starts_word=starts_word) == Argmax()


class TestConfiguration:
    @staticmethod
    def make(*overrides: str) -> Decode:
        GlobalHydra.instance().clear()
        folder = Path(__file__).parents[2] / "conf"
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            made = instantiate(hydra.compose("train", list(overrides)).decoding, _convert_="all")
        assert isinstance(made, Decoding)
        return made  # type: ignore[return-value]

    def test_defaults(self) -> None:
        assert self.make("decoding=argmax") == Argmax()
        assert self.make("decoding=length_parallel") == Decode(TopLengths(3), OnePass(), OwnScore())
        assert self.make("decoding=npd") == Decode(TopLengths(7), OnePass(), TeacherScore("base"))
        assert self.make("decoding=mask_predict") == Decode(TopLengths(1), MaskPredict(4), OwnScore())

    def test_the_last_row_of_table_4(self) -> None:
        """Zh-En: LPD 3, de-duplication and a length factor of 1.05."""
        made = self.make(
            "decoding=length_parallel", "decoding.lengths.factor=1.05", "decoding.deduplicate=token"
        )
        assert made == Decode(TopLengths(3, 1.05), OnePass(), OwnScore(), "token")

    def test_every_part_can_be_exchanged(self) -> None:
        made = self.make(
            "decoding=npd",
            "decoding/lengths=window",
            "decoding.lengths.beam=5",
            "decoding/fill=mask_predict",
            "decoding.fill.schedule=fairseq",
            "decoding.choice.teacher=big",
        )
        assert made == Decode(WindowLengths(5), MaskPredict(4, "fairseq"), TeacherScore("big"))
        assert (made.teacher, made.needs_masks) == ("big", True)
        assert isinstance(made.choice, Choice)
        ranked = self.make(
            "decoding=mask_predict", "decoding/choice=teacher_score", "decoding.lengths.beam=3"
        )
        assert ranked == Decode(TopLengths(3), MaskPredict(4), TeacherScore("base"))
