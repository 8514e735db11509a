"""The Transformer's parts, shared by the autoregressive teacher and the non-autoregressive student.

Sizes travel as one `Size` (Tables 6 and 10 of the paper are instances of it, in conf/budget/paper.yaml).
Source: Vaswani et al. (2017). Positions are learned, as in the reference NATs; layer normalisation comes
before each block (`norm: pre`, trains without a long warm-up) or after it (`norm: post`, the paper's).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mple import checks
from mple.checks import UserError
from mple.model.attention import Attention
from mple.model.dropout import Dropout
from mple.model.linear import Linear
from mple.model.packing import Layout, Packing
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


@dataclass(frozen=True)
class Size:
    """Width, depth and regularisation of a Transformer. `max_positions` is the longest sentence it reads."""

    d_model: int = 256
    d_ff: int = 1024
    encoder_layers: int = 3
    decoder_layers: int = 3
    num_heads: int = 4
    dropout: float | int = 0.1
    norm: str = "pre"
    max_positions: int = 256

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            checks.whole(f"size.{name}", getattr(self, name), 1, high=most)
        checks.number("size.dropout", self.dropout, 0, 0.99)
        checks.one_of("size.norm", self.norm, ("pre", "post"))
        if self.d_model % self.num_heads:
            raise UserError(
                f"size.d_model must be a multiple of size.num_heads; got {self.d_model} and {self.num_heads}"
            )

    @classmethod
    def named(cls, sizes: Mapping[str, Mapping[str, Any]], name: str) -> "Size":
        """The one of this name among `sizes`, the configuration's; an error names it by its key there."""
        if not isinstance(sizes[name], Mapping):
            raise UserError(f"sizes.{name} must be a mapping (d_model, d_ff, ...); got {sizes[name]!r}")
        known = [field.name for field in fields(cls)]
        for key in sizes[name]:
            checks.one_of(f"a key of sizes.{name}", key, known)
        try:
            return cls(**sizes[name])
        except UserError as error:
            raise UserError(str(error).replace("size.", f"sizes.{name}.")) from error


class Embedding(nn.Module):
    """Token embeddings times √d plus learned positions, then dropout."""

    def __init__(self, size: Size, vocabulary_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, size.d_model, padding_idx=PAD)
        self.positions = nn.Embedding(size.max_positions, size.d_model)
        self.dropout = Dropout(size.dropout)
        self.scale = math.sqrt(size.d_model)
        nn.init.normal_(self.tokens.weight, std=size.d_model**-0.5)
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
        device = x.device.type
        return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


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
        self.self_attention = Attention(size.d_model, size.num_heads, size.dropout)
        self.feed_forward = FeedForward(size)
        self.attend = Residual(size)
        self.transform = Residual(size)

    def forward(
        self, x: Float[Tensor, "*P D"], hidden: Bool[Tensor, "B #S S"] | None, layout: Layout | None
    ) -> Float[Tensor, "*P D"]:
        """With `layout` of packed states."""
        y = self.attend.before(x)
        x = self.attend.after(x, self.self_attention(y, hidden, layout))
        return self.transform.after(x, self.feed_forward(self.transform.before(x)))


class DecoderLayer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attention = Attention(size.d_model, size.num_heads, size.dropout)
        self.cross_attention = Attention(size.d_model, size.num_heads, size.dropout)
        self.feed_forward = FeedForward(size)
        self.attend = Residual(size)
        self.look = Residual(size)
        self.transform = Residual(size)

    def read_own(
        self,
        x: Float[Tensor, "*P D"],
        hidden: Bool[Tensor, "#B #L L"] | None,
        layout: Layout | None,
        wanted: Packing | None = None,
    ) -> Float[Tensor, "*Q D"]:
        """Self-attention; with `layout` of packed states, and with `wanted` for the positions of that."""
        seen = self.self_attention(self.attend.before(x), hidden, layout, wanted)
        return self.attend.after(x if wanted is None else wanted.pack(x), seen)

    def read_source(
        self,
        x: Float[Tensor, "*P D"],
        encoder_out: EncoderOutput,
        hidden: Bool[Tensor, "B #L S"] | None,
        layout: Layout | None,
    ) -> Float[Tensor, "*P D"]:
        """Cross-attention and feed-forward block; with `layout` of packed states."""
        seen = self.cross_attention.look(self.look.before(x), encoder_out, hidden, layout)
        x = self.look.after(x, seen)
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
        # The rows of a sentence ask its source together, as if they were positions of one canvas.
        asked = self.look.before(x).view(cross.shape[1], -1, x.shape[-1])
        x = self.look.after(x, self.cross_attention.attend(asked, cross, source_hidden).view_as(x))
        return self.transform.after(x, self.feed_forward(self.transform.before(x))), own


def hide_padding(is_pad: Bool[Tensor, "B S"]) -> Bool[Tensor, "B 1 S"] | None:
    """What attention may not see; None when there is no padding, which saves the masking. On an accelerator
    that question would cost more than the masking, since its answer has to be waited for."""
    return is_pad.unsqueeze(1) if is_pad.device.type != "cpu" or bool(is_pad.any()) else None


class Encoder(nn.Module):
    """X -> states. Padding positions are never attended to, so padding changes no result."""

    def __init__(self, size: Size, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList([EncoderLayer(size) for _ in range(size.encoder_layers)])
        self.num_heads = size.num_heads
        self.norm = nn.LayerNorm(size.d_model) if size.norm == "pre" else nn.Identity()

    def forward(self, src_tokens: Int[Tensor, "B S"]) -> EncoderOutput:
        is_pad = src_tokens == PAD
        packing, hidden = None, hide_padding(is_pad)
        words = self.embedding.words(src_tokens)
        x = self.embedding.placed(words)
        if _pays_to_pack(src_tokens, self.training):
            packing = Packing(src_tokens, None, len(src_tokens), self.num_heads)
            x, hidden = packing.pack(x), packing.hidden
        for layer in self.layers:
            x = layer(x, hidden, None if packing is None else packing.canvases)
        states = self.norm(x)
        states = states if packing is None else packing.unpack(states)
        is_content = ~is_pad & (src_tokens != EOS)
        is_content |= ~is_pad & ~is_content.any(1, keepdim=True)
        positions = self.embedding.positions.weight[: src_tokens.shape[1]]
        return EncoderOutput(states, is_pad, SourceWords(words, positions, is_content))


class Decoder(nn.Module):
    """Layers that read the canvas (or the prefix) and the encoder's states."""

    def __init__(self, size: Size, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList([DecoderLayer(size) for _ in range(size.decoder_layers)])
        self.num_heads = size.num_heads
        self.norm = nn.LayerNorm(size.d_model) if size.norm == "pre" else nn.Identity()

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
        packing = None
        if _pays_to_pack(tokens, self.training):
            num_sentences = len(encoder_out.sentence_states)
            packing = Packing(tokens, encoder_out.row, num_sentences, self.num_heads)
        hidden = _hide_future(tokens) if causal else hide_padding(tokens == PAD)
        source_hidden = hide_padding(encoder_out.is_pad if packing is None else encoder_out.sentence_is_pad)
        x = self.embedding(tokens, latent, unrevealed=unrevealed)
        own, cross = None, None
        if packing is not None:
            x, own, cross = packing.pack(x), packing.canvases, packing.sentences
            hidden = _hide_future(tokens[:, : own.columns]) if causal else packing.hidden
        for n, layer in enumerate(self.layers, 1):
            some = None
            if packing is not None and reads is not None and n == len(self.layers):
                narrow = packing.only(reads)
                some = narrow if narrow is not packing else None
                packing, cross = narrow, narrow.sentences
            x = layer.read_own(x, hidden, own, some)  # type: ignore[operator]
            x = layer.read_source(x, encoder_out, source_hidden, cross)  # type: ignore[operator]
        x = self.norm(x)
        return x if packing is None else packing.unpack(x)


def can_pack(tokens: Int[Tensor, "C L"]) -> bool:
    """Not on an accelerator, which would have to be asked for the positions, nor where a graph is traced,
    which will see other shapes."""
    return tokens.device.type == "cpu" and not torch.jit.is_tracing()


def _pays_to_pack(tokens: Int[Tensor, "C L"], training: bool) -> bool:
    """Where there is padding to leave out; and always in training, where packed heads need fewer copies, with
    or without a gradient, so that dropout draws the same for both."""
    return can_pack(tokens) and (training or torch.is_grad_enabled() or bool((tokens == PAD).any()))


def _hide_future(tokens: Int[Tensor, "C L"]) -> Bool[Tensor, "1 L L"]:
    """A position sees itself and what is before it, and so no padding at the right."""
    length = tokens.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1).unsqueeze(0)


def embeddings(size: Size, src_size: int, tgt_size: int, is_joint: bool) -> tuple[Embedding, Embedding]:
    """Source and target embeddings. With a joint vocabulary they share the token matrix, and the decoder's
    projection always is the target matrix (all embeddings shared, as in the paper's En-De setting)."""
    source, target = Embedding(size, src_size), Embedding(size, tgt_size)
    if is_joint:
        source.tokens = target.tokens
    return source, target
