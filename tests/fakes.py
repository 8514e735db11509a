"""Tiny models and random batches for tests.

    model = nat()                                            # every weight random, biases too; eval mode
    batch = random_batch(src_lengths=[4, 7], tgt_lengths=[3, 6])
    look = snapshot_of(model, batch)
    calls = count_decodes(model)                             # calls.rows lists the rows of each decoder pass

Lengths count content tokens; ids of content start behind the special symbols.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mple.model.autoregressive import Autoregressive
from mple.model.length import LengthPredictor
from mple.model.nat import NAT
from mple.model.transformer import Size
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import EOS, PAD, SPECIAL_TOKENS, Batch, DecoderOutput

CONTENT = len(SPECIAL_TOKENS)
VOCABULARY = 20


def tiny_size(**changes: Any) -> Size:
    size = Size(d_model=16, d_ff=32, encoder_layers=1, decoder_layers=2, num_heads=2, dropout=0.0)
    return dataclasses.replace(size, **changes)


def _shaken(model: nn.Module, seed: int) -> Any:
    """Moves every weight, so that biases, norms and the embedding of pad are not at their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return model.eval()


def nat(seed: int = 0, is_joint: bool = True, max_offset: int = 3, **size: Any) -> NAT:
    torch.manual_seed(seed)
    length = partial(LengthPredictor, max_offset=max_offset)
    return _shaken(NAT(tiny_size(**size), length, VOCABULARY, VOCABULARY, is_joint), seed)


def tiny_nat(entries: int, **size: Any) -> NAT:
    """A NAT as it is before training, with a vocabulary of `entries`; its weights are the caller's seed's."""
    length = partial(LengthPredictor, max_offset=3)
    return NAT(tiny_size(**size), length, entries, entries, is_joint=True)


def autoregressive(seed: int = 0, is_joint: bool = True, **size: Any) -> Autoregressive:
    torch.manual_seed(seed)
    return _shaken(Autoregressive(tiny_size(**size), VOCABULARY, VOCABULARY, is_joint), seed)


def contents(lengths: Sequence[int], seed: int = 0, width: int | None = None) -> Tensor:
    """Random content tokens, `pad` at the right: (B, max(lengths) or `width`)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), width or max(lengths)), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(CONTENT, VOCABULARY, (length,), generator=generator)
    return tokens


def sources(lengths: Sequence[int], seed: int = 0) -> Tensor:
    """Random sources of `lengths` content tokens, each ended by eos."""
    tokens = functional.pad(contents(lengths, seed), (0, 1), value=PAD)
    return tokens.scatter(1, torch.tensor(lengths).unsqueeze(1), EOS)


def pad_right(tokens: Tensor, count: int) -> Tensor:
    return functional.pad(tokens, (0, count), value=PAD)


def random_batch(
    src_lengths: Sequence[int],
    tgt_lengths: Sequence[int],
    candidate_lengths: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Batch:
    """A batch with ids 100, 101, …; `candidate_lengths[b][k]` asks for random candidates with random scores
    (0 to 100, not symmetric, 100 on the diagonal)."""
    ids = torch.arange(100, 100 + len(src_lengths))
    batch = Batch(ids, sources(src_lengths, seed), contents(tgt_lengths, seed + 1))
    if candidate_lengths is None:
        return batch
    width = max(max(row) for row in candidate_lengths)
    candidates = [contents(row, seed + 10 + b, width) for b, row in enumerate(candidate_lengths)]
    num_candidates = len(candidate_lengths[0])
    scores = torch.rand(
        len(ids), num_candidates, num_candidates, generator=torch.Generator().manual_seed(seed + 2)
    )
    scores = 100 * scores.masked_fill(torch.eye(num_candidates, dtype=torch.bool), 1.0)
    names = tuple(names) or tuple(f"c{k}" for k in range(num_candidates))
    return dataclasses.replace(
        batch, tgt_candidates=torch.stack(candidates), candidate_scores=scores, candidate_names=names
    )


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """The sentences `rows` of a batch, with no column that holds only padding."""

    def trimmed(tokens: Tensor) -> Tensor:
        return tokens[..., : int((tokens != PAD).sum(-1).max())]

    index = torch.tensor(rows)
    candidates, scores = batch.tgt_candidates, batch.candidate_scores
    return Batch(
        batch.ids[index],
        trimmed(batch.src_tokens[index]),
        trimmed(batch.tgt_tokens[index]),
        None if candidates is None else trimmed(candidates[index]),
        None if scores is None else scores[index],
        batch.candidate_names,
    )


def snapshot_of(model: NAT, batch: Batch, step: int = 0, total: int = 100, seed: int = 1) -> Snapshot:
    encoder_out = model.encode(batch.src_tokens)
    return Snapshot(model, encoder_out, batch.ids, batch.tgt_lengths, Draws(seed, step), step, total)


def output_of(logits: Tensor) -> DecoderOutput:
    """A decoder output whose logits are the given ones (B, L, V)."""
    return DecoderOutput(logits, torch.eye(logits.shape[-1], dtype=logits.dtype))


@dataclasses.dataclass
class Decodes:
    """How many canvases each decoder pass had."""

    rows: list[int]


def count_decodes(model: NAT) -> Decodes:
    """From now on, notes every decoder pass of `model`."""
    calls = Decodes([])
    model.decoder.register_forward_hook(lambda _, __, features: calls.rows.append(len(features)))
    return calls
