"""How the Transformer's operations are computed: plain functions, chosen by the device of their tensors.

    backend.linear(x, weight, bias)             # on a CPU by oneDNN's fused product, elsewhere by PyTorch
    with backend.use("reference"):              # everything below in plain PyTorch, on any device
        model(...)

`reference` is the definition: plain PyTorch, a function each. `cpu` and `cuda` compute the same faster; the
tests compare every function with its reference, in value and gradient. Nothing above this package knows the
device.
"""

import contextlib
from collections.abc import Iterator
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.backend import cpu, cuda, reference
from mple.backend.chunked import in_autocast
from mple.backend.rows import Rows

BACKENDS = {"reference": reference, "cpu": cpu, "cuda": cuda}
_forced: ModuleType | None = None


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Within the block the backend `name` computes everything, whatever the device.

    Example:
        >>> with use("reference"):
        ...     linear(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1))
        tensor([[2.]])
    """
    global _forced
    before, _forced = _forced, BACKENDS[name]
    try:
        yield
    finally:
        _forced = before


def _for(x: Tensor) -> ModuleType:
    if _forced is not None:
        return _forced
    if torch.jit.is_tracing():  # a graph is for other shapes than those that it is traced with
        return reference
    return BACKENDS.get(x.device.type, reference)


def autocast(x: Tensor) -> Tensor:
    """x in the type of autocast where that is enabled, else x itself."""
    return in_autocast(x)


def hide_padding(is_pad: Bool[Tensor, "B S"]) -> Bool[Tensor, "B 1 S"] | None:
    """What attention may not see; None where that is nothing and asking is cheap."""
    return _for(is_pad).hide_padding(is_pad)


def rows(
    is_token: Bool[Tensor, "B L"],
    num_heads: int,
    sees_future: bool = True,
    memory_is_pad: Bool[Tensor, "A S"] | None = None,
    memory_row: Int[Tensor, "B"] | None = None,
    training: bool = False,
) -> Rows:
    """How the states of B rows of L positions are laid out, and which positions attend to which.

    is_token: True where a row has a token. sees_future: False hides later positions (a causal decoder).
    memory_is_pad: True at padding of the A sentences that the rows also attend to.
    memory_row: the sentence that each row attends to; None: row b to sentence b.
    """
    make = _for(is_token).rows
    return make(is_token, num_heads, sees_future, memory_is_pad, memory_row, training)


def split_heads(x: Float[Tensor, "B L W"], parts: int, num_heads: int) -> Float[Tensor, "P B H L d"]:
    """`parts` states that stand side by side in the last axis, each with its heads apart."""
    return _for(x).split_heads(x, parts, num_heads)


def linear(
    x: Float[Tensor, "*P I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"], relu: bool = False
) -> Float[Tensor, "*P O"]:
    """x Wᵀ + b, after which ReLU with `relu`."""
    return _for(x).linear(x, weight, bias, relu)


def attend(
    query: Float[Tensor, "B H L d"] | None,
    heads: Float[Tensor, "P B H S d"],
    hidden: Bool[Tensor, "#B #L #S"] | None,
    dropout: float | int,
) -> Float[Tensor, "B H L d"]:
    """Softmax(q kᵀ / √d) v of every head.

    query: None where `heads` holds queries, keys and values (S = L); else `heads` holds keys and values.
    hidden: True where a position may not be seen. dropout: the share of weights that are dropped.
    """
    return _for(heads).attend(query, heads, hidden, dropout)


def dropout(x: Tensor, rate: float | int) -> Tensor:
    """Zeros a share `rate` of the elements and scales up the rest."""
    return _for(x).dropout(x, rate)


def add_dropout(x: Tensor, block: Tensor, rate: float | int) -> Tensor:
    """x + dropout(block)."""
    return _for(x).add_dropout(x, block, rate)


def linear_cross_entropy(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, "N"],
    smoothing: float | int,
    penalties: Float[Tensor, "P"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums over N of (1−ε)·NLL + ε·mean_v(−log p_v), and of the plain NLL (no gradient), in nats.

    p = softmax(features · weightᵀ). Matrix products are in the autocast type; the sums are float32. Gradients
    go to `features` and `weight`, once (no double backward).

    penalties: factors of the *last* P of the N rows in the first sum; those rows are left out of the second.

    Raises:
        IndexError: a label is no row of `weight` (on a CPU; elsewhere PyTorch's device assertion).
    """
    return _for(features).linear_cross_entropy(features, weight, labels, smoothing, penalties)


def normalisers(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """log Σ_v exp(logit) in nats, float32, at the positions of the canvas; 0 elsewhere. No gradient."""
    return _for(features).normalisers(features, weight, is_canvas)


def most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """The token of the highest logit, the first of equals, at the positions of the canvas, else `pad`."""
    return _for(features).most_probable(features, weight, is_canvas)


def normalisers_and_most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B L"]]:
    """`normalisers` and `most_probable`, from logits that are computed once."""
    return _for(features).normalisers_and_most_probable(features, weight, is_canvas)


@torch.no_grad()
def logits_of(
    features: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], tokens: Int[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """The logit of one token at each position: products in the autocast type, summed in float32."""
    # No product of matrices, not even `vecdot`: autocast would compute it, and the logit, in its own type.
    return (autocast(features).float() * autocast(weight)[tokens].float()).sum(1)
