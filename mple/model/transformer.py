"""The Transformer's parts, shared by the autoregressive teacher and the non-autoregressive student.

Sizes travel as one `Size` (Tables 6 and 10 of the paper are instances of it, in conf/budget/paper.yaml).
Source: Vaswani et al. (2017). Positions are learned, as in the reference NATs, or sinusoidal, as in fairseq's
autoregressive model; layer normalisation comes before each block (`norm: pre`, trains without a long warm-up)
or after it (`norm: post`, the paper's).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mple import backend, checks
from mple.backend.rows import Rows
from mple.checks import UserError
from mple.model.attention import INITIALISATIONS, Attention
from mple.model.dropout import Dropout
from mple.model.linear import Linear
from mple.types import EOS, MASK, PAD, EncoderOutput, SourceWords

MOST_POSITIONS = 1 << 17
MOST = {
    "d_model": 1 << 15,
    "d_ff": 1 << 17,
    "encoder_layers": 256,
    "decoder_layers": 256,
    "num_heads": 1024,
    "max_positions": MOST_POSITIONS,
}
"""What no Transformer of today has more of: beyond it is a slip of the pen, or an attack on the memory."""
POSITIONS = ("learned", "sinusoidal")


@dataclass(frozen=True)
class Size:
    """Width, depth, regularisation and initialisation of a Transformer.

    max_positions: tokens of the longest sentence it reads.
    attention_dropout: share of the attention weights dropped in training; None: as `dropout`.
    attention_init: how queries, keys and values begin, "joint" or "fairseq" (see `Attention`); None: "joint".
    """

    d_model: int = 256
    d_ff: int = 1024
    encoder_layers: int = 3
    decoder_layers: int = 3
    num_heads: int = 4
    dropout: float | int = 0.1
    norm: str = "pre"
    max_positions: int = 256
    attention_dropout: float | int | None = None
    attention_init: str | None = None

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            checks.whole(f"size.{name}", getattr(self, name), 1, high=most)
        checks.number("size.dropout", self.dropout, 0, 0.99)
        if self.attention_dropout is not None:
            checks.number("size.attention_dropout", self.attention_dropout, 0, 0.99)
        if self.attention_init is not None:
            checks.one_of("size.attention_init", self.attention_init, INITIALISATIONS)
        checks.one_of("size.norm", self.norm, ("pre", "post"))
        if self.d_model % self.num_heads:
            raise UserError(
                f"size.d_model must be a multiple of size.num_heads; got {self.d_model} and {self.num_heads}"
            )

    def attention(self) -> Attention:
        """A new block of multi-head attention of this size."""
        dropout = self.dropout if self.attention_dropout is None else self.attention_dropout
        return Attention(self.d_model, self.num_heads, dropout, self.attention_init or "joint")

    @classmethod
    def named(cls, sizes: Mapping[str, Any], name: str) -> "Size":
        """The one of this name among `sizes`, the configuration's; an error names it by its key there."""
        if not isinstance(sizes[name], Mapping):
            raise UserError(f"sizes.{name} must be a mapping (d_model, d_ff, ...); got {sizes[name]!r}")
        known = {field.name: field.type for field in fields(cls)}
        for key, value in sizes[name].items():
            checks.one_of(f"a key of sizes.{name}", key, known)
            checks.of_type(f"sizes.{name}.{key}", value, known[key])
        try:
            return cls(**sizes[name])
        except UserError as error:
            raise UserError(str(error).replace("size.", f"sizes.{name}.")) from error


def sinusoids(count: int, width: int) -> Float[Tensor, "count width"]:
    """Positions p = 0 … count − 1: the sine of p / 10000^(i / (h − 1)) for i < h = ⌊width / 2⌋, then the
    cosine of the same, then a zero where the width is odd.

    Source: Vaswani et al. (2017), in the order and with the wavelengths of fairseq's code. There the first
    token has position 2, here 0: only the difference of two positions has a meaning.
    """
    half = width // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / max(half - 1, 1))
    angles = torch.arange(count, dtype=torch.float64).unsqueeze(1) * rates
    return functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2)).float()


class SinusoidalPositions(nn.Module):
    """A fixed table of positions, with the attributes of an `nn.Embedding`; not in the state_dict."""

    weight: Float[Tensor, "M D"]

    def __init__(self, num_embeddings: int, width: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.register_buffer("weight", sinusoids(num_embeddings, width), persistent=False)


class Embedding(nn.Module):
    """Token embeddings times √d plus positions ("learned" or "sinusoidal"), then dropout."""

    positions: nn.Embedding | SinusoidalPositions

    def __init__(self, size: Size, vocabulary_size: int, positions: str = "learned") -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, size.d_model, padding_idx=PAD)
        self.dropout = Dropout(size.dropout)
        self.scale = math.sqrt(size.d_model)
        if positions == "learned":
            self.positions = nn.Embedding(size.max_positions, size.d_model)
        else:
            self.positions = SinusoidalPositions(size.max_positions, size.d_model)
        nn.init.normal_(self.tokens.weight, std=size.d_model**-0.5)
        if positions == "learned":
            nn.init.normal_(self.positions.weight, std=size.d_model**-0.5)
        with torch.no_grad():
            self.tokens.weight[PAD].zero_()

    def words(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """The token embeddings times √d, alone."""
        return self.tokens(tokens) * self.scale

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        latent: Float[Tensor, "B L D"] | None = None,
        start: int = 0,
        unrevealed: Float[Tensor, "B L D"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """`unrevealed` stands where the tokens say `<mask>`, in place of its embedding; `latent` is added
        everywhere before the dropout; `start` is the position of the first column."""
        words = self.words(tokens)
        if unrevealed is not None:
            words = torch.where((tokens == MASK).unsqueeze(-1), unrevealed, words)
        return self.placed(words, latent, start)

    def placed(
        self, words: Float[Tensor, "B L D"], latent: Float[Tensor, "B L D"] | None = None, start: int = 0
    ) -> Float[Tensor, "B L D"]:
        """What a block reads: `words` with their positions, then dropout."""
        stop = start + words.shape[1]
        if stop > self.positions.num_embeddings:
            raise UserError(
                f"a sentence of {stop} tokens is longer than size.max_positions="
                f"{self.positions.num_embeddings}"
            )
        x = words + self.positions.weight[start:stop]
        x = self.dropout(x if latent is None else x + latent)
        # Under autocast the residual stream is of its type too: else every block would copy it to and fro.
        return backend.autocast(x)


class FeedForward(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.inner = Linear(size.d_model, size.d_ff, relu=True)
        self.outer = Linear(size.d_ff, size.d_model)
        for linear in (self.inner, self.outer):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P D"]:
        return self.outer(self.inner(x))


class Residual(nn.Module):
    """x + dropout(block(norm(x))) (`pre`) or norm(x + dropout(block(x))) (`post`)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size.d_model)
        self.dropout = Dropout(size.dropout)
        self.is_pre = size.norm == "pre"

    def before(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P D"]:
        return self.norm(x) if self.is_pre else x

    def after(self, x: Float[Tensor, "*P D"], block: Float[Tensor, "*P D"]) -> Float[Tensor, "*P D"]:
        x = self.dropout.add(x, block)
        return x if self.is_pre else self.norm(x)


class EncoderLayer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attention = size.attention()
        self.feed_forward = FeedForward(size)
        self.attend = Residual(size)
        self.transform = Residual(size)

    def forward(self, x: Float[Tensor, "*P D"], rows: Rows) -> Float[Tensor, "*P D"]:
        x = self.attend.after(x, self.self_attention(self.attend.before(x), rows))
        return self.transform.after(x, self.feed_forward(self.transform.before(x)))


class DecoderLayer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attention = size.attention()
        self.cross_attention = size.attention()
        self.feed_forward = FeedForward(size)
        self.attend = Residual(size)
        self.look = Residual(size)
        self.transform = Residual(size)

    def forward(
        self, x: Float[Tensor, "*P D"], keys_values: Float[Tensor, "2 A H S d"], rows: Rows
    ) -> Float[Tensor, "*Q D"]:
        """`keys_values` are the source's; `rows` tell which row reads which sentence."""
        x = self.attend.after(rows.narrow(x), self.self_attention(self.attend.before(x), rows))
        x = self.look.after(x, self.cross_attention.look(self.look.before(x), keys_values, rows))
        return self.transform.after(x, self.feed_forward(self.transform.before(x)))

    def step(
        self,
        x: Float[Tensor, "N 1 D"],
        cache: Float[Tensor, "2 N H T d"] | None,
        cross: Float[Tensor, "2 A H S d"],
        source_hidden: Bool[Tensor, "A 1 S"] | None,
    ) -> tuple[Float[Tensor, "N 1 D"], Float[Tensor, "2 N H T1 d"]]:
        """One position more, given the keys and values of the positions before it (`cache`) and of the A
        sources (`cross`), each read by N / A consecutive rows; returns the state and the grown cache."""
        y = self.attend.before(x)
        own = self.self_attention.keys_values(y)
        if cache is not None:
            own = torch.cat([cache, own], 3)
        x = self.attend.after(x, self.self_attention.attend(y, own, None))
        # The rows of a sentence look at its source together, as if they were positions of one canvas.
        asked = self.look.before(x).view(cross.shape[1], -1, x.shape[-1])
        x = self.look.after(x, self.cross_attention.attend(asked, cross, source_hidden).view_as(x))
        return self.transform.after(x, self.feed_forward(self.transform.before(x))), own


class Encoder(nn.Module):
    """X -> states. Padding positions are never attended to, so padding changes no result."""

    def __init__(self, size: Size, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList([EncoderLayer(size) for _ in range(size.encoder_layers)])
        self.num_heads = size.num_heads
        self.norm = nn.LayerNorm(size.d_model) if size.norm == "pre" else nn.Identity()

    def forward(self, src_tokens: Int[Tensor, "B S"]) -> EncoderOutput:
        words, is_pad = self.embedding.words(src_tokens), src_tokens == PAD
        rows = backend.rows(~is_pad, self.num_heads, training=self.training)
        x = rows.pack(self.embedding.placed(words))
        for layer in self.layers:
            x = layer(x, rows)
        states = rows.unpack(self.norm(x))
        return EncoderOutput(states, is_pad, self._source(words, src_tokens))

    def _source(self, words: Float[Tensor, "B S D"], src_tokens: Int[Tensor, "B S"]) -> SourceWords:
        is_token = src_tokens != PAD
        is_content = is_token & (src_tokens != EOS)
        is_content |= is_token & ~is_content.any(1, keepdim=True)
        return SourceWords(words, self.embedding.positions.weight[: src_tokens.shape[1]], is_content)


class Decoder(nn.Module):
    """Layers that read the canvas (or the prefix) and the encoder's states."""

    def __init__(self, size: Size, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList([DecoderLayer(size) for _ in range(size.decoder_layers)])
        self.num_heads = size.num_heads
        self.norm = nn.LayerNorm(size.d_model) if size.norm == "pre" else nn.Identity()

    def keys_values(self, encoder_out: EncoderOutput) -> tuple[Float[Tensor, "2 A H S d"], ...]:
        """Each layer's keys and values of the sentences, of `encoder_out` where it has them."""
        if encoder_out.keys_values is not None:
            return encoder_out.keys_values
        states = encoder_out.sentence_states
        return tuple(layer.cross_attention.keys_values(states) for layer in self.layers)  # type: ignore[union-attr, operator]

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        encoder_out: EncoderOutput,
        latent: Float[Tensor, "B L D"] | None = None,
        causal: bool = False,
        unrevealed: Float[Tensor, "B L D"] | None = None,
        reads: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Features of padding, and of what is not among `reads`, are undefined."""
        memory_is_pad, training = encoder_out.sentence_is_pad, self.training
        rows = backend.rows(
            tokens != PAD, self.num_heads, not causal, memory_is_pad, encoder_out.row, training
        )
        x = rows.pack(self.embedding(tokens, latent, unrevealed=unrevealed))
        for layer, keys_values in zip(self.layers, self.keys_values(encoder_out), strict=True):
            if layer is self.layers[-1]:
                rows = rows.only(reads)
            x = layer(x, keys_values, rows)
        return rows.unpack(self.norm(x))


def embeddings(
    size: Size, src_size: int, tgt_size: int, is_joint: bool, positions: str = "learned"
) -> tuple[Embedding, Embedding]:
    """Source and target embeddings. With a joint vocabulary they share the token matrix, and the decoder's
    projection always is the target matrix (all embeddings shared, as in the paper's En-De setting)."""
    source, target = Embedding(size, src_size, positions), Embedding(size, tgt_size, positions)
    if is_joint:
        source.tokens = target.tokens
    return source, target
