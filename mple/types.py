"""The types that pass between the stages of a training step, and the legend of their axes.

Axes, in shapes everywhere in this package:

    B  sentences of a batch      S  source positions        T  reference positions
    L  canvas positions          V  vocabulary entries      D  width of the model
    K  target candidates         N  any flat selection of positions

Conventions:

- Target-side tensors (`tgt_tokens`, `tgt_candidates`, canvases) hold *content* tokens only: no bos and
  no eos, `pad` at the right. What is masked, revealed, aligned or counted is therefore always content.
- `src_tokens` ends every sentence with eos, `pad` at the right.
- A boolean tensor's name says what True means.
- Losses travel as `Mean`s (a sum and a count) and are divided once, at the end of the update.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

PAD, BOS, EOS, UNK, MASK, BLANK = range(6)
"""Ids of the special symbols, the same in every vocabulary. `<mask>` stands for a hidden token of Z,
`<blank>` for the empty token of AXE and CTC, `<unk>` for a character that the vocabulary lacks."""

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<mask>", "<blank>")


@dataclass(frozen=True)
class Mean:
    """A sum and the number of things summed: divided once, at the very end.

    `total` may carry a gradient; `count` never does.
    """

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]

    @staticmethod
    def of(values: Tensor, counts: Tensor | None = None) -> "Mean":
        """The mean of `values`, or of those of them where `counts` is True."""
        if counts is None:
            return Mean(values.float().sum(), torch.full((), float(values.numel()), device=values.device))
        return Mean(values.float().masked_fill(~counts, 0.0).sum(), counts.sum().float())

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def detach(self) -> "Mean":
        return Mean(self.total.detach(), self.count.detach())

    def value(self) -> float:
        """total / count in Python; NaN when nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


class _Movable:
    """Gives a dataclass of tensors the `.to(device)` that Lightning asks for."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "_Movable":
        def moved_to(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved_to(each) for each in value)
            return (
                value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor | _Movable) else value
            )

        moved = {f.name: moved_to(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Batch(_Movable):
    """Sentences of a corpus. Content tokens only on the target side (see the module's conventions).

    `ids` are the corpus' line ids: they name a sentence whatever batch it is in.
    `tgt_candidates[:, k]` is the target that candidate `candidate_names[k]` proposes ("raw" is the
    reference itself); `candidate_scores[:, i, k]` is S(Γ_i, Γ_k), sentence BLEU (0 to 100) of candidate k
    as the hypothesis against candidate i as the reference.
    """

    ids: Int[Tensor, "B"]
    src_tokens: Int[Tensor, "B S"]
    tgt_tokens: Int[Tensor, "B T"]
    tgt_candidates: Int[Tensor, "B K T2"] | None = None
    candidate_scores: Float[Tensor, "B K K"] | None = None
    candidate_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def tgt_lengths(self) -> Int[Tensor, "B"]:
        return (self.tgt_tokens != PAD).sum(1)


@dataclass(frozen=True)
class Penalty(_Movable):
    """Tokens of the reference that T has no place for, and what leaving them out costs (AXE's skip penalty).

    Token `tokens[b, i]` costs `weights[b, i]` times its negative log-likelihood at canvas position
    `positions[b, i]`, beside what T says there; a weight of 0 is no penalty. T alone enters L_NAT.
    """

    positions: Int[Tensor, "B T"]
    tokens: Int[Tensor, "B T"]
    weights: Float[Tensor, "B T"]


@dataclass(frozen=True)
class Target(_Movable):
    """T, the proxy target, laid on the canvas.

    `tokens[b, j]` is what position j is trained to say; `counts` is True where the loss looks
    (content positions of the canvas; a proxy input's revealed positions are taken out by the objective).
    `reference` is the text that T was made from: Y itself, or the distilled Y. `penalty` is what the
    objective adds for the tokens of the reference that T lacks; None where nothing is added. `truncated` is
    True where T counts but is not trained on (OaXE's truncation); None where all of it is.
    """

    tokens: Int[Tensor, "B L"]
    counts: Bool[Tensor, "B L"]
    reference: Int[Tensor, "B T"]
    log: dict[str, Mean] = field(default_factory=dict)
    penalty: Penalty | None = None
    truncated: Bool[Tensor, "B L"] | None = None

    @property
    def lengths(self) -> Int[Tensor, "B"]:
        """Canvas length of every sentence: what the length predictor learns."""
        return self.counts.sum(1)


@dataclass(frozen=True)
class DecoderInput(_Movable):
    """Z, the proxy input: what the decoder sees at each position of the canvas.

    `tokens` holds `<mask>` where nothing is revealed and a token of T where `revealed` is True; `pad`
    outside the canvas. `latent` is added to the embeddings (a copied source, a latent variable).
    `losses` are what a proxy input that owns weights adds to the objective (L_input of a VAE).
    """

    tokens: Int[Tensor, "B L"]
    revealed: Bool[Tensor, "B L"]
    latent: Float[Tensor, "B L D"] | None = None
    losses: dict[str, Mean] = field(default_factory=dict)
    log: dict[str, Mean] = field(default_factory=dict)

    @property
    def is_canvas(self) -> Bool[Tensor, "B L"]:
        return self.tokens != PAD

    @property
    def is_blank(self) -> bool:
        """Whether it shows nothing but the canvases' lengths: no token, revealed or not, and no latent."""
        return self.latent is None and not bool(((self.tokens != MASK) & self.is_canvas).any())


def decoder_input(
    tokens: Int[Tensor, "B L"],
    is_canvas: Bool[Tensor, "B L"],
    revealed: Bool[Tensor, "B L"],
    log: dict[str, Mean] | None = None,
) -> DecoderInput:
    """The Z that reveals `tokens` at the positions of the canvas where `revealed` is True, with `<mask>` at
    the others and `pad` outside the canvas."""
    revealed = revealed & is_canvas
    return DecoderInput(
        torch.where(revealed, tokens, torch.where(is_canvas, MASK, PAD)), revealed, log=log or {}
    )


@dataclass(frozen=True)
class SourceWords(_Movable):
    """X before the encoder's layers: what a decoder input may copy.

    `words` are token embeddings times √D, without positions and without dropout; `positions` are the
    encoder's position embeddings. `is_content` is True at content tokens, neither eos nor pad; where a
    source has none, at its eos, so that there always is something to copy.
    """

    words: Float[Tensor, "B S D"]
    positions: Float[Tensor, "S D"]
    is_content: Bool[Tensor, "B S"]

    def rows(self, index: Int[Tensor, "N"]) -> "SourceWords":
        words, is_content = self.words.index_select(0, index), self.is_content.index_select(0, index)
        return SourceWords(words, self.positions, is_content)


@dataclass(frozen=True)
class EncoderOutput(_Movable):
    """Encoder states of X. `is_pad` is True at source positions that hold no token. `source` is None where it
    was not kept; only decoder inputs that copy the source need it. `keys_values` are each decoder layer's, of
    the sentences: all passes over these states share them; None: every pass computes them.

    Several canvases of one sentence share its states: these are kept once per sentence, and row n reads
    sentence `row[n]`; None where the rows are the sentences. `states`, `is_pad` and `source` are those of the
    rows, copied at each use: what is computed of every row is better computed of the sentences.
    """

    sentence_states: Float[Tensor, "A S D"]
    sentence_is_pad: Bool[Tensor, "A S"]
    sentence_source: SourceWords | None = None
    row: Int[Tensor, "B"] | None = None
    keys_values: tuple[Float[Tensor, "2 A H S d"], ...] | None = None

    @property
    def states(self) -> Float[Tensor, "B S D"]:
        return self.sentence_states if self.row is None else self.sentence_states.index_select(0, self.row)

    @property
    def is_pad(self) -> Bool[Tensor, "B S"]:
        return self.sentence_is_pad if self.row is None else self.sentence_is_pad.index_select(0, self.row)

    @property
    def source(self) -> SourceWords | None:
        if self.row is None or self.sentence_source is None:
            return self.sentence_source
        return self.sentence_source.rows(self.row)

    def rows(self, index: Int[Tensor, "N"]) -> "EncoderOutput":
        """The same states for the rows `index`, repeats allowed. Nothing is copied where they are more than
        the sentences; else they are all that is kept."""
        row = index if self.row is None else self.row.index_select(0, index)
        shared = dataclasses.replace(self, row=row)
        if len(row) > len(self.sentence_states):
            return shared
        own = None
        if self.keys_values is not None:
            own = tuple(pair.index_select(1, row) for pair in self.keys_values)
        return EncoderOutput(shared.states, shared.is_pad, shared.source, keys_values=own)


@dataclass(frozen=True)
class DecoderOutput:
    """What the decoder says at each position, before the projection to the vocabulary.

    Logits are the widest tensor of the model, so nothing makes them until somebody asks, and the
    objective asks only for positions that count. `links` are a DA-Transformer's transitions.
    """

    features: Float[Tensor, "B L D"]
    weight: Float[Tensor, "V D"]
    links: Float[Tensor, "B L L"] | None = None

    @property
    def logits(self) -> Float[Tensor, "B L V"]:
        return functional.linear(self.features, self.weight)

    def logits_at(self, positions: Bool[Tensor, "B L"]) -> Float[Tensor, "N V"]:
        """Logits of the positions where `positions` is True, in row-major order."""
        return functional.linear(self.features[positions], self.weight)


@dataclass(frozen=True)
class Hypotheses:
    """Decoded sentences: content tokens, `pad` at the right. `scores` are summed log-probabilities (nats);
    `passes` counts decoder calls."""

    tokens: Int[Tensor, "B L"]
    scores: Float[Tensor, "B"]
    passes: int
