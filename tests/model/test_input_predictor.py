"""P(Z | X): a distribution over all Z, the same alone and in a batch; the mask predictor is a copy."""

import itertools

import pytest
import torch

from mple.model.input_predictor import InputDistribution, MaskPredictor
from mple.types import MASK, DecoderInput
from tests.fakes import CONTENT, contents, nat, pad_right, sources
from tests.table_models import TableMasks, TableNAT


def test_all_z_sum_to_one() -> None:
    """Every position is masked or says one of the words: (words + 1)^L strings."""
    words, length = 3, 3
    distribution = InputDistribution(TableMasks(), TableNAT(words))
    every = torch.tensor(list(itertools.product([MASK, *range(CONTENT, CONTENT + words)], repeat=length)))
    src_tokens = sources([1], seed=5).expand(len(every), -1)
    log_prob = distribution.log_prob(src_tokens, DecoderInput(every, every != MASK))
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert log_prob.exp().std() > 0


def test_against_the_tables() -> None:
    masks, vanilla = TableMasks(), TableNAT(3)
    found = InputDistribution(masks, vanilla).log_probs(
        torch.tensor([[9, 2], [8, 2]]), torch.tensor([[6, 8, 7], [7, 0, 0]])
    )
    for row, (source, tokens) in enumerate(((9, [6, 8, 7]), (8, [7]))):
        m = masks.of(source, len(tokens))
        p = vanilla.conditionals(source, [MASK] * len(tokens))
        for i, token in enumerate(tokens):
            assert float(found.masked[row, i].exp()) == pytest.approx(float(m[i]), rel=1e-5)
            expected = (1 - float(m[i])) * float(p[i, token - CONTENT])
            assert float(found.revealed[row, i].exp()) == pytest.approx(expected, rel=1e-5)
    assert (found.masked[1, 1:] == 0).all()
    assert (found.revealed[1, 1:] == 0).all()


@torch.no_grad()
def test_batch_and_padding() -> None:
    masks = MaskPredictor(nat())
    torch.nn.init.normal_(masks.classes.weight)
    distribution = InputDistribution(masks, nat(seed=1))
    lengths, tokens, src_tokens = [4, 1, 6], contents([4, 1, 6]), sources([3, 8, 5])
    together = distribution.log_probs(src_tokens, tokens)
    wider = distribution.log_probs(pad_right(src_tokens, 3), pad_right(tokens, 2))
    for part in ("masked", "revealed"):
        whole = getattr(together, part)
        torch.testing.assert_close(getattr(wider, part)[:, :6], whole, atol=1e-5, rtol=1e-5)
        assert (whole[tokens == 0] == 0).all()
        for row, (source, length) in enumerate(zip([3, 8, 5], lengths, strict=True)):
            alone = distribution.log_probs(
                src_tokens[row : row + 1, : source + 1], tokens[row : row + 1, :length]
            )
            torch.testing.assert_close(getattr(alone, part)[0], whole[row, :length], atol=1e-5, rtol=1e-5)


def test_it_starts_even_and_leaves_the_nat_alone() -> None:
    model = nat()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    masks = MaskPredictor(model)
    assert (masks(sources([3, 5]), torch.tensor([4, 2])) == 0).all()
    for _ in range(2):  # the first step moves the new layer, only then do gradients reach the copy
        masks(sources([3, 5]), torch.tensor([4, 2])).sum().backward()
        with torch.no_grad():
            for weight in masks.parameters():
                if weight.grad is not None:
                    weight.sub_(weight.grad)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    moved = [not torch.equal(w, before[n]) for n, w in masks.nat.decoder.named_parameters(prefix="decoder")]
    assert any(moved)
    assert masks.nat.decoder.embedding.tokens is masks.nat.encoder.embedding.tokens  # still tied
    assert not any(weight.requires_grad for weight in masks.nat.length.parameters())
