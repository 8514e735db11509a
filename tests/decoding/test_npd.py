"""NPD against the teacher's own probabilities, token by token."""

import dataclasses

import pytest
import torch
from torch import Tensor

from mple.checks import UserError
from mple.decoding import Decoding
from mple.decoding import fill as fill_module
from mple.decoding.choice import Choice
from mple.decoding.decode import Decode
from mple.decoding.lengths import TopLengths, WindowLengths
from mple.decoding.npd import TeacherScore
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.types import BLANK, BOS, EOS, PAD
from tests.fakes import VOCABULARY, autoregressive, count_decodes, nat, pad_right, sources

LENGTHS = [5, 2, 9, 1, 7]


def npd(teacher: Autoregressive, beam: int = 5, deduplicate: str = "none") -> Decode:
    return Decode(TopLengths(beam), choice=TeacherScore(), deduplicate=deduplicate).prepared(teacher)


def text(row: Tensor) -> list[int]:
    return [token for token in row.tolist() if token != PAD]


def teacher_sum(teacher: Autoregressive, src_tokens: Tensor, tokens: list[int]) -> float:
    """log P(tokens, eos | X), one prefix at a time through the cached decoder."""
    state, total, last = teacher.start(src_tokens), 0.0, BOS
    for token in [*tokens, EOS]:
        total += float(teacher.step(torch.tensor([last]), state)[0, token])
        last = token
    return total


@pytest.mark.parametrize("deduplicate", ["none", "token"])
@torch.no_grad()
def test_against_a_loop(deduplicate: str) -> None:
    model, teacher, src_tokens = nat(), autoregressive(seed=3), sources(LENGTHS)
    own = Decode(TopLengths(5), deduplicate=deduplicate).candidates(model, src_tokens)
    decoding = npd(teacher, 5, deduplicate)
    found, best = decoding.candidates(model, src_tokens), decoding(model, src_tokens)
    differs = False
    for row, source in enumerate(LENGTHS):
        drafts = [text(own.tokens[row, k]) for k in range(5) if own.canvas[row, k]]
        sums = [teacher_sum(teacher, src_tokens[row : row + 1, : source + 1], draft) for draft in drafts]
        means = [total / (len(draft) + 1) for total, draft in zip(sums, drafts, strict=True)]
        order = sorted(range(len(drafts)), key=lambda k: -means[k])
        assert [text(found.tokens[row, k]) for k in range(len(drafts))] == [drafts[k] for k in order]
        assert found.ranks[row, : len(drafts)].tolist() == pytest.approx([means[k] for k in order], abs=1e-4)
        assert found.scores[row, : len(drafts)].tolist() == pytest.approx([sums[k] for k in order], abs=1e-4)
        assert text(best.tokens[row]) == drafts[order[0]]
        differs |= order[0] != 0
    assert differs  # the teacher overruled the model somewhere
    assert torch.equal(best.scores, found.scores[:, 0])


@torch.no_grad()
def test_one_pass_each_and_no_padding_matters() -> None:
    model, teacher, src_tokens = nat(), autoregressive(seed=3), sources(LENGTHS)
    calls = count_decodes(model)
    decoding = npd(teacher, 3)
    together = decoding(model, src_tokens)
    assert together.passes == 2  # the model's and the teacher's
    assert len(calls.rows) == 1
    wider = decoding(model, pad_right(src_tokens, 6))
    assert torch.equal(wider.tokens, together.tokens)
    for row, source in enumerate(LENGTHS):
        alone = decoding(model, src_tokens[row : row + 1, : source + 1])
        assert text(alone.tokens[0]) == text(together.tokens[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_logits_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, decoding, src_tokens = nat(), npd(autoregressive(seed=3)), sources(LENGTHS)
    whole = decoding.candidates(model, src_tokens)
    monkeypatch.setattr(fill_module, "_CELLS", 7 * VOCABULARY)
    parts = decoding.candidates(model, src_tokens)
    assert torch.equal(parts.tokens, whole.tokens)
    torch.testing.assert_close(parts.ranks, whole.ranks)


@torch.no_grad()
def test_the_teacher_reads_no_blank_and_scores_an_empty_text() -> None:
    model, teacher, src_tokens = nat(), autoregressive(seed=3), sources([3, 4])
    model.first_sayable = BLANK
    direction = model.decoder.embedding.tokens.weight[BLANK]
    direction.copy_(
        10 * model.decode(model.blank(torch.tensor([4])), model.encode(src_tokens[:1])).features[0, 0]
    )
    found = npd(teacher, 3).candidates(model, src_tokens)
    assert not (found.tokens == BLANK).any()
    empty = (found.tokens == PAD).all(2) & (found.canvas > 0)
    assert empty.any()
    for row, k in empty.nonzero().tolist():
        expected = teacher_sum(teacher, src_tokens[row : row + 1, : [4, 5][row]], [])
        assert float(found.ranks[row, k]) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_canvases_are_no_longer_than_the_teacher_reads() -> None:
    model, teacher = nat(max_positions=12), autoregressive(max_positions=9)
    decoding = Decode(WindowLengths(5, factor=10), choice=TeacherScore()).prepared(teacher)
    found = decoding.candidates(model, sources([5, 6]))
    assert int(found.canvas.max()) == teacher.max_length == 8
    assert torch.isfinite(found.ranks[:, 0]).all()


def test_dropout_is_off() -> None:
    model, teacher = nat(), autoregressive(seed=3, dropout=0.5)
    teacher.train()
    decoding = npd(teacher)
    first, second = (decoding.candidates(model, sources(LENGTHS)).ranks for _ in range(2))
    assert torch.equal(first, second)


def test_without_a_teacher() -> None:
    decoding = Decode(choice=TeacherScore("big"))
    assert decoding.teacher == "big"
    assert Decode().teacher is None
    for unprepared in (decoding, decoding.prepared(), decoding.prepared(starts_word=torch.ones(3).bool())):
        with pytest.raises(UserError, match=r"^decoding\.choice\.teacher must be a trained teacher .*'big'$"):
            unprepared(nat(), sources([3]))


def test_a_teacher_of_another_vocabulary() -> None:
    model = nat()
    model.decoder.embedding.tokens = torch.nn.Embedding(VOCABULARY + 1, 16, padding_idx=PAD)
    with pytest.raises(UserError, match=r"target vocabulary \(21 entries\); got 'base' with 20$"):
        npd(autoregressive())(model, sources([3]))


def test_is_a_value() -> None:
    decoding = npd(autoregressive())
    assert isinstance(decoding, Decoding)
    assert isinstance(decoding.choice, Choice)
    assert repr(decoding.choice) == "TeacherScore(teacher='base')"
    assert decoding == dataclasses.replace(decoding, choice=TeacherScore())
    assert isinstance(nat(), NAT)
