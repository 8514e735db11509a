"""Models whose probabilities are tables: every sum over all sentences or all Z can be written out.

    table = TableNAT(words=3)                    # sentences of CONTENT, CONTENT + 1, CONTENT + 2
    joint = table.joint(source, length)          # P(Y | X) of all 3^length sentences: one axis for each token
    batch = table_batch([(7, 3), (8, 2)])        # (first source token, target length)
    masks = TableMasks(...)                      # m_i by source and position

A `TableNAT` knows the conditionals of its joint exactly: given revealed tokens, each hidden token has the
marginal of P(Y | X, Z). Its encoder only passes on the first source token, so rows can be reordered.
"""

import torch
from torch import Tensor

from mple.model.input_predictor import MaskPredictor
from mple.model.length import LengthPredictor
from mple.model.nat import NAT
from mple.types import EOS, MASK, PAD, Batch, DecoderInput, DecoderOutput, EncoderOutput
from tests.fakes import CONTENT, VOCABULARY, nat, tiny_size

_IMPOSSIBLE = -1e4  # a finite log-probability, since 0 · ∞ is no number


class TableNAT(NAT):
    def __init__(self, words: int = 3, seed: int = 0, sharpness: float = 1.5) -> None:
        super().__init__(tiny_size(), LengthPredictor, VOCABULARY, VOCABULARY, is_joint=True)
        self.words, self.seed, self.sharpness = words, seed, sharpness
        self.eval()

    def joint(self, source: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + 50 * source + length)
        shape = (self.words,) * length
        scores = self.sharpness * torch.randn(shape, generator=generator, dtype=torch.float64)
        return scores.flatten().softmax(0).view(shape)

    def encode(self, src_tokens: Tensor) -> EncoderOutput:
        return EncoderOutput(src_tokens.unsqueeze(-1).float(), src_tokens == PAD)

    def conditionals(self, source: int, tokens: list[int]) -> Tensor:
        """P(y_k | X, Z) of every position, by summing the joint: (L, words). `tokens` holds `<mask>` or
        ids."""
        joint = self.joint(source, len(tokens))
        for position, token in enumerate(tokens):
            if token != MASK:
                keep = torch.zeros(self.words, dtype=torch.float64)
                keep[token - CONTENT] = 1
                joint = joint * keep.view([-1 if axis == position else 1 for axis in range(len(tokens))])
        joint = joint / joint.sum()
        axes = range(len(tokens))
        return torch.stack(
            [joint.sum([a for a in axes if a != k]) if len(tokens) > 1 else joint for k in axes]
        )

    def decode(
        self, inputs: DecoderInput, encoder_out: EncoderOutput, reads: torch.Tensor | None = None
    ) -> DecoderOutput:
        logits = torch.full((*inputs.tokens.shape, VOCABULARY), _IMPOSSIBLE)
        for row, tokens in enumerate(inputs.tokens.tolist()):
            tokens = [token for token in tokens if token != PAD]
            found = self.conditionals(int(encoder_out.states[row, 0, 0]), tokens)
            logits[row, : len(tokens), CONTENT : CONTENT + self.words] = (
                found.log().clamp(min=_IMPOSSIBLE).float()
            )
        return DecoderOutput(logits, torch.eye(VOCABULARY))


class TableMasks(MaskPredictor):
    """m_i by the first source token and the position; or the same everywhere."""

    def __init__(self, masked: float | None = None, seed: int = 0) -> None:
        super().__init__(nat())
        self.masked, self.seed = masked, seed
        self.eval()

    def of(self, source: int, length: int) -> Tensor:
        if self.masked is not None:
            return torch.full((length,), self.masked, dtype=torch.float64)
        generator = torch.Generator().manual_seed(7000 * self.seed + 50 * source + length)
        return 0.05 + 0.9 * torch.rand(length, generator=generator, dtype=torch.float64)

    def forward(self, src_tokens: Tensor, lengths: Tensor) -> Tensor:
        logits = torch.zeros(len(lengths), int(lengths.max()))
        for row, length in enumerate(lengths.tolist()):
            logits[row, :length] = self.of(int(src_tokens[row, 0]), length).logit().float()
        return logits


def table_batch(sentences: list[tuple[int, int]], words: int = 3, seed: int = 0) -> Batch:
    """One random target for each (first source token, target length); equal ids for equal places."""
    generator = torch.Generator().manual_seed(seed)
    src = torch.tensor([[source, EOS] for source, _ in sentences])
    tgt = torch.full((len(sentences), max(length for _, length in sentences)), PAD)
    for row, (_, length) in zip(tgt, sentences, strict=True):
        row[:length] = torch.randint(CONTENT, CONTENT + words, (length,), generator=generator)
    return Batch(torch.arange(len(sentences)), src, tgt)
