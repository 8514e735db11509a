"""The input predictor P(Z | X): which tokens of the proxy input are masked, and which token the others are.

    P(Z | X) = Π_i P(z_i | X)                                               Eq. 15
    P(z_i | X) = m_i                       where z_i is masked              App. E.6
               = (1 − m_i) P(t_i | X)      where z_i = t_i

m_i comes from the `MaskPredictor`, P(t_i | X) from a vanilla NAT that never changes: together they are an
`InputDistribution`. The length of Z is given.
"""

import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mple.checks import UserError
from mple.decoding.fill import log_probs_of
from mple.model.nat import NAT
from mple.types import PAD, DecoderInput


class MaskPredictor(nn.Module):
    """m_i = P(z_i is masked | X), from the encoder and the decoder of a NAT that reads a fully masked canvas,
    and a binary classification layer.

    nat: what the encoder and the decoder start as: the trained NAT whose Z is predicted. They are copied, so
        that training them leaves it as it is.

    Source: App. E.6, where the NAT and the classifier learn together; here the NAT is finished first, so that
    measuring a run's L_input does not change the run.
    """

    def __init__(self, nat: NAT) -> None:
        super().__init__()
        self.nat = copy.deepcopy(nat)
        self.nat.length.requires_grad_(False)  # the canvas is given; an optimizer has nothing to do there
        self.classes = nn.Linear(self.nat.decoder.embedding.tokens.embedding_dim, 1)
        nn.init.zeros_(self.classes.weight)  # m = 1/2 everywhere, whatever the decoder says
        nn.init.zeros_(self.classes.bias)

    def forward(self, src_tokens: Int[Tensor, "B S"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B L"]:
        """log m_i − log(1 − m_i) on canvases of `lengths` tokens; outside of them it means nothing."""
        output = self.nat.decode(self.nat.blank(lengths), self.nat.encode(src_tokens))
        return self.classes(output.features).squeeze(-1).float()


@dataclass(frozen=True)
class InputLogProbs:
    """What each position of Z adds to log P(Z | X), in nats (float64, 0 outside the canvas): `masked` where
    it is `<mask>`, `revealed` where it shows the token that was asked for."""

    masked: Float[Tensor, "B L"]
    revealed: Float[Tensor, "B L"]


@dataclass(frozen=True)
class InputDistribution:
    """P(Z | X), complete. Both models are used with dropout off and without gradient.

    mask_predictor: m_i. vanilla: P(t_i | X), a trained vanilla NAT with the same target vocabulary.

    Raises:
        UserError: the two have other target vocabularies.
    """

    mask_predictor: MaskPredictor = field(repr=False)
    vanilla: NAT = field(repr=False)

    def __post_init__(self) -> None:
        wanted, entries = (target_entries(nat) for nat in (self.mask_predictor.nat, self.vanilla))
        if wanted != entries:
            raise UserError(
                f"the vanilla NAT of an input predictor must have its target vocabulary ({wanted} entries); "
                f"got one with {entries}"
            )
        self.mask_predictor.eval()
        self.vanilla.eval()

    def to(self, device: torch.device) -> "InputDistribution":
        return InputDistribution(self.mask_predictor.to(device), self.vanilla.to(device))

    @torch.no_grad()
    def log_probs(self, src_tokens: Int[Tensor, "B S"], tokens: Int[Tensor, "B L"]) -> InputLogProbs:
        """Of Z that show content of the texts `tokens` (`pad` outside the canvas)."""
        is_canvas = tokens != PAD
        lengths = is_canvas.sum(1)
        blank = self.vanilla.blank(lengths)  # without columns that hold only padding, which `tokens` may have
        logits = self.mask_predictor(src_tokens, lengths)[blank.is_canvas].double()  # (N)
        words = self.vanilla.decode(blank, self.vanilla.encode(src_tokens))
        said = log_probs_of(words, tokens[:, : blank.tokens.shape[1]], blank.is_canvas)
        masked, revealed = (
            torch.zeros(tokens.shape, dtype=logits.dtype, device=tokens.device) for _ in range(2)
        )
        masked[is_canvas] = functional.logsigmoid(logits)
        revealed[is_canvas] = functional.logsigmoid(-logits) + said.double()
        return InputLogProbs(masked, revealed)

    def log_prob(self, src_tokens: Int[Tensor, "B S"], inputs: DecoderInput) -> Float[Tensor, "B"]:
        """log P(Z | X) in nats. What stands at masked positions is never asked for."""
        found = self.log_probs(src_tokens, inputs.tokens)
        return torch.where(inputs.revealed, found.revealed, found.masked).sum(1)


def target_entries(nat: NAT) -> int:
    """Size of a NAT's target vocabulary."""
    return nat.decoder.embedding.tokens.num_embeddings
