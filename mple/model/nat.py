"""The non-autoregressive Transformer: every token of the canvas at once.

    encoder_out = model.encode(src_tokens)
    lengths, _ = model.length.predict(encoder_out)
    output = model.decode(model.blank(lengths[:, 0]), encoder_out)
    output.logits                                            # log P(t_i | Z, X) up to a constant, all i

The decoder sees no causal mask: given X and Z its tokens are independent (Eq. 3 of the paper).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from mple.model.length import LengthPredictor
from mple.model.transformer import Decoder, Encoder, Size, embeddings
from mple.types import BLANK, MASK, PAD, DecoderInput, DecoderOutput, EncoderOutput
from mple.vanilla_input import VanillaInput
from mple.vanilla_input.mask import Mask

_MASK = Mask()


class NAT(nn.Module):
    """Encoder, length predictor and a decoder without order.

    Source: Gu et al. (2018) without fertilities; App. E.5 of the paper for the vanilla inputs.

    vanilla_input: what the decoder sees at positions that Z does not reveal, in training and in decoding:
    `<mask>`, as in CMLM (Ghazvininejad et al., 2019), or a copy of the source.
    says_blank: whether `<blank>`, the empty token of AXE, may be said when decoding. No other special symbol
    ever is; decodings look at ids from `first_sayable` on.
    """

    def __init__(
        self,
        size: Size,
        length: Callable[..., LengthPredictor],
        src_size: int,
        tgt_size: int,
        is_joint: bool,
        says_blank: bool = False,
        vanilla_input: VanillaInput = _MASK,
    ) -> None:
        super().__init__()
        self.first_sayable = BLANK if says_blank else BLANK + 1
        src_embedding, tgt_embedding = embeddings(size, src_size, tgt_size, is_joint)
        self.encoder = Encoder(size, src_embedding)
        self.decoder = Decoder(size, tgt_embedding)
        self.vanilla_input = vanilla_input
        self.length = length(d_model=size.d_model, max_length=size.max_positions)

    def encode(self, src_tokens: Int[Tensor, "B S"]) -> EncoderOutput:
        """States of X, with the keys and values that every decoder pass reads."""
        encoder_out = self.encoder(src_tokens)
        return replace(encoder_out, keys_values=self.decoder.keys_values(encoder_out))

    def blank(self, lengths: Int[Tensor, "B"]) -> DecoderInput:
        """A fully masked Z with canvases of `lengths` content tokens."""
        positions = torch.arange(int(lengths.max()), device=lengths.device)
        is_canvas = positions < lengths.unsqueeze(1)  # (B, L)
        tokens = torch.where(is_canvas, MASK, PAD)
        return DecoderInput(tokens, revealed=torch.zeros_like(is_canvas))

    def decode(
        self,
        inputs: DecoderInput,
        encoder_out: EncoderOutput,
        reads: Bool[Tensor, "B L"] | None = None,
    ) -> DecoderOutput:
        """Features of log P(t_i | Z, X) at every position of the canvas.

        reads: True where the caller will use the features, as `Objective.reads` tells; elsewhere they are
            undefined, and the last layer may leave them out. None: everywhere.
        """
        positions = self.decoder.embedding.positions.weight[: inputs.tokens.shape[1]]
        unrevealed = self.vanilla_input(inputs.is_canvas.sum(1), encoder_out, positions)
        features = self.decoder(inputs.tokens, encoder_out, inputs.latent, unrevealed=unrevealed, reads=reads)
        return DecoderOutput(features, self.decoder.embedding.tokens.weight)
