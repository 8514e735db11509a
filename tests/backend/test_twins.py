"""Every function of every backend against its reference: values and gradients, float32 and bf16.

What `cuda` does is plain PyTorch and runs on CPU tensors too, so both backends are compared here.
"""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mple import backend
from mple.backend import cpu, cuda, reference
from mple.decoding.beam import Beam
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_target import laid_out
from mple.types import PAD
from tests.fakes import autoregressive, contents, nat, sources

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
OTHERS = pytest.mark.parametrize("name", ["cpu", "cuda"])
FUNCTIONS = {
    *("rows", "split_heads", "hide_padding", "linear", "attend", "dropout", "add_dropout"),
    *("linear_cross_entropy", "normalisers", "most_probable", "normalisers_and_most_probable"),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_every_backend_has_every_function() -> None:
    for module in (reference, cpu, cuda):
        assert {name for name in FUNCTIONS if callable(getattr(module, name, None))} == FUNCTIONS
    public = {name for name, _ in inspect.getmembers(backend, inspect.isfunction) if name[0] != "_"}
    assert public - {"use", "autocast", "in_autocast", "logits_of"} == FUNCTIONS


def both(name: str, dtype: torch.dtype, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """What `run` returns by the reference in float32 and by a backend, under autocast to bf16 if so."""
    with backend.use("reference"):
        expected = run()
    with backend.use(name), torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
        return run(), expected


def same(results: tuple[list[Tensor], list[Tensor]], dtype: torch.dtype, scale: float = 1.0) -> None:
    for actual, expected in zip(*results, strict=True):
        if dtype == torch.float32:
            torch.testing.assert_close(actual.float(), expected, atol=2e-5 * scale, rtol=1e-4)
        else:
            assert float((actual.float() - expected).norm()) < 0.02 * float(expected.norm())


@OTHERS
@TYPES
@pytest.mark.parametrize("relu", [False, True])
def test_linear(name: str, dtype: torch.dtype, relu: bool) -> None:
    given = [torch.randn(3, 5, 32), torch.randn(48, 32), torch.randn(48)]
    given = [value.bfloat16().float().requires_grad_() for value in given]
    weight = torch.randn(3, 5, 48)

    def run() -> list[Tensor]:
        y = backend.linear(*given, relu)
        return [y.detach(), *torch.autograd.grad((y.float() * weight).sum(), given)]

    same(both(name, dtype, run), dtype, scale=10)


@OTHERS
@TYPES
@pytest.mark.parametrize("is_self", [False, True])
@pytest.mark.parametrize("length", [6, 20])
@pytest.mark.parametrize("hides", [False, True])
def test_attend(name: str, dtype: torch.dtype, is_self: bool, length: int, hides: bool) -> None:
    """At lengths where softmax takes its own way and where it does not."""
    query = torch.randn(16, 4, length, 8).bfloat16().float().requires_grad_()
    heads = torch.randn(3 if is_self else 2, 16, 4, length, 8).bfloat16().float().requires_grad_()
    hidden = torch.rand(16, 1, length) < 0.4
    hidden[..., 0] = False
    weight = torch.randn(16, 4, length, 8)
    given = [heads] if is_self else [query, heads]

    def run() -> list[Tensor]:
        own = None if is_self else backend.autocast(query)  # as a linear layer returns them
        y = backend.attend(own, backend.autocast(heads), hidden if hides else None, 0.0)
        return [y.detach(), *torch.autograd.grad((y.float() * weight).sum(), given)]

    same(both(name, dtype, run), dtype)


@OTHERS
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_has_the_same_rate_and_mean(name: str, rate: float) -> None:
    x = torch.ones(400, 500, requires_grad=True)
    with backend.use(name):
        for y in (backend.dropout(x, rate), backend.add_dropout(torch.zeros(400, 500), x, rate)):
            assert (y == 0).float().mean().item() == pytest.approx(rate, abs=0.006)
            assert y.mean().item() == pytest.approx(1.0, abs=0.012)
            (grad,) = torch.autograd.grad(y.sum(), x)
            torch.testing.assert_close(grad, y.detach())


@OTHERS
@TYPES
def test_no_dropout_is_the_identity(name: str, dtype: torch.dtype) -> None:
    x, block = torch.randn(3, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    with backend.use(name):
        assert torch.equal(backend.dropout(x, 0), x)
        assert torch.equal(backend.add_dropout(x, block, 0), x + block)


@OTHERS
@TYPES
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("penalised", [0, 5])
def test_linear_cross_entropy(name: str, dtype: torch.dtype, smoothing: float, penalised: int) -> None:
    features, weight = torch.randn(50, 16), torch.randn(300, 16)
    given = [value.bfloat16().float().requires_grad_() for value in (features, weight)]
    labels = torch.randint(300, (50,))
    penalties = torch.rand(penalised) if penalised else None

    def run() -> list[Tensor]:
        loss, nll = backend.linear_cross_entropy(*given, labels, smoothing, penalties)
        return [loss.detach(), nll, *torch.autograd.grad(loss, given)]

    same(both(name, dtype, run), dtype, scale=5)


@OTHERS
@TYPES
def test_reading_the_vocabulary(name: str, dtype: torch.dtype) -> None:
    features, weight = torch.randn(6, 7, 16).bfloat16().float(), torch.randn(300, 16).bfloat16().float()
    is_canvas = torch.rand(6, 7) < 0.7

    def run() -> list[Tensor]:
        log_sums, tokens = backend.normalisers_and_most_probable(features, weight, is_canvas)
        assert torch.equal(backend.normalisers(features, weight, is_canvas), log_sums)
        assert torch.equal(backend.most_probable(features, weight, is_canvas), tokens)
        best = torch.where(is_canvas, (features @ weight.T).gather(-1, tokens.unsqueeze(-1)).squeeze(-1), 0)
        return [log_sums, best, (tokens == PAD).float()]

    results = both(name, dtype, run)
    same(results, dtype)
    assert bool((results[0][2] == ~is_canvas).all())


@OTHERS
def test_split_heads_and_join(name: str) -> None:
    x, is_token = torch.randn(3, 5, 16), torch.arange(5) < torch.tensor([[5], [2], [4]])
    with backend.use("reference"):
        expected = backend.split_heads(x, 2, 4)
    with backend.use(name):
        assert torch.equal(backend.split_heads(x, 2, 4), expected)
        rows = backend.rows(is_token, num_heads=4, training=True)
        packed = rows.pack(x)
        (own,) = rows.own.split(packed, 1)
        back = rows.unpack(rows.own.join(own))
        assert torch.equal(back[is_token], x[is_token])


def updates(model: NAT | Autoregressive, count: int) -> list[float]:
    """Losses of a few updates without dropout."""
    src_tokens, tokens = sources([4, 2, 6, 3]), contents([3, 5, 1, 6])
    target = laid_out(tokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(count):
        encoder_out = model.encode(src_tokens)
        if isinstance(model, NAT):
            inputs = model.blank(target.lengths)
            loss = CrossEntropy(0.1)(model.decode(inputs, encoder_out), target, inputs)["nats"].total
        else:
            labels = model.labels(tokens)
            output = model.decode(model.prefixes(tokens), encoder_out)
            counts = labels != PAD
            loss, _ = backend.linear_cross_entropy(
                output.features[counts], output.weight, labels[counts], 0.1
            )
        optimizer.zero_grad()
        (loss / 15).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@OTHERS
@pytest.mark.parametrize("make", [nat, autoregressive])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_twenty_updates_agree(name: str, make: Callable[..., NAT | Autoregressive], norm: str) -> None:
    results = []
    for chosen in ("reference", name):
        model = make(norm=norm, decoder_layers=2).train()
        with backend.use(chosen):
            results.append((updates(model, 20), dict(model.named_parameters())))
    (expected, weights), (actual, own) = results
    assert expected[-1] < 0.8 * expected[0]
    assert actual == pytest.approx(expected, rel=1e-4)
    for key, value in weights.items():
        torch.testing.assert_close(own[key], value, atol=2e-4, rtol=1e-3)


@OTHERS
def test_cached_decoding_agrees(name: str) -> None:
    model, src_tokens = autoregressive(decoder_layers=2), sources([4, 2, 6])
    with torch.no_grad(), backend.use("reference"):
        expected = Beam(3)(model, src_tokens)
    with torch.no_grad(), backend.use(name):
        actual = Beam(3)(model, src_tokens)
    assert torch.equal(actual.tokens, expected.tokens)
    torch.testing.assert_close(actual.scores, expected.scores, atol=1e-4, rtol=1e-4)
