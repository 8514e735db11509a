"""The autoregressive Transformer (AT): the teacher of distillation and the baseline of every table.

    output = model.decode(model.prefixes(tgt_tokens), model.encode(src_tokens))     # teacher forcing
    hypotheses = Beam(5)(model, src_tokens)                                         # cached decoding

`start` and `step` implement `mple.decoding.beam.Incremental`: the encoder runs once, the cross-attention's
keys and values are made once, and each step adds one position to the self-attention's.
"""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mple import backend, checks
from mple.model.transformer import POSITIONS, Decoder, Encoder, Size, embeddings
from mple.types import BOS, EOS, PAD, DecoderOutput, EncoderOutput


@dataclass
class DecodingState:
    """What N = A·W growing sequences, W of each of A sentences, remember: per layer their own keys and values
    and those of the sources, which the sequences of a sentence share."""

    own: list[Float[Tensor, "2 N H T d"] | None]
    source: list[Float[Tensor, "2 A H S d"]]
    source_hidden: Bool[Tensor, "A 1 S"] | None
    position: int
    width: int = 1

    def select(self, rows: Int[Tensor, "A W"]) -> "DecodingState":
        own = [None if pair is None else pair.index_select(1, rows.flatten()) for pair in self.own]
        source, hidden = self.source, self.source_hidden
        if len(rows) < source[0].shape[1]:  # sentences stay in their order: as many are the same
            kept = rows[:, 0] // self.width
            source = [pair.index_select(1, kept) for pair in source]
            hidden = None if hidden is None else hidden.index_select(0, kept)
        return DecodingState(own, source, hidden, self.position, rows.shape[1])


class Autoregressive(nn.Module):
    """Encoder and causal decoder; P(y_i | y_<i, X) (Eq. 2 of the paper).

    positions: "learned" or "sinusoidal"; None: "learned".

    Source: Vaswani et al. (2017), whose positions are sinusoidal, as are those of fairseq's `transformer`.
    """

    def __init__(
        self, size: Size, src_size: int, tgt_size: int, is_joint: bool, positions: str | None = None
    ) -> None:
        super().__init__()
        if positions is not None:
            checks.one_of("module.model.positions", positions, POSITIONS)
        src_embedding, tgt_embedding = embeddings(size, src_size, tgt_size, is_joint, positions or "learned")
        self.encoder = Encoder(size, src_embedding)
        self.decoder = Decoder(size, tgt_embedding)
        self.max_length = size.max_positions - 1  # one position is bos'

    def encode(self, src_tokens: Int[Tensor, "B S"]) -> EncoderOutput:
        """States of X, with the keys and values that every decoder pass reads."""
        encoder_out = self.encoder(src_tokens)
        return replace(encoder_out, keys_values=self.decoder.keys_values(encoder_out))

    def prefixes(self, tgt_tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T+1"]:
        """bos and then the content: what the decoder reads under teacher forcing."""
        return functional.pad(tgt_tokens, (1, 0), value=BOS)

    def labels(self, tgt_tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T+1"]:
        """The content and then eos: what the decoder is to say after each prefix."""
        labels = functional.pad(tgt_tokens, (0, 1), value=PAD)
        ends = (tgt_tokens != PAD).sum(1, keepdim=True)
        return labels.scatter(1, ends, EOS)

    def decode(self, prefixes: Int[Tensor, "B L"], encoder_out: EncoderOutput) -> DecoderOutput:
        features = self.decoder(prefixes, encoder_out, causal=True)
        return DecoderOutput(features, self.decoder.embedding.tokens.weight)

    def start(self, src_tokens: Int[Tensor, "B S"]) -> DecodingState:
        encoder_out = self.encode(src_tokens)
        source = list(self.decoder.keys_values(encoder_out))
        return DecodingState([None] * len(source), source, backend.hide_padding(encoder_out.is_pad), 0)

    def step(self, last_tokens: Int[Tensor, "N"], state: DecodingState) -> Float[Tensor, "N V"]:
        x = self.decoder.embedding(last_tokens.unsqueeze(1), start=state.position)
        for i, layer in enumerate(self.decoder.layers):
            x, state.own[i] = layer.step(x, state.own[i], state.source[i], state.source_hidden)  # type: ignore[operator]
        state.position += 1
        logits = functional.linear(self.decoder.norm(x[:, 0]), self.decoder.embedding.tokens.weight)
        return functional.log_softmax(logits.float(), -1)
