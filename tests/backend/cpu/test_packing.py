"""Packed positions against loops, and packed models against the reference, which computes padding."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mple import backend
from mple.backend.cpu import packing as packing_module
from mple.backend.cpu.packing import Layout, PackedRows, rounded
from mple.types import MASK, PAD, DecoderInput
from tests.fakes import autoregressive, contents, nat, sources

Way = Callable[[nn.Module, Callable[[], Tensor]], tuple[list[Tensor], list[Tensor]]]


def filled(x: Tensor) -> Tensor:
    """Packed states: some rows more than positions."""
    return torch.cat([x, torch.full((rounded(len(x)) - len(x), x.shape[1]), torch.nan)])


def ragged(lengths: list[int]) -> Tensor:
    """Canvases of these lengths: 10, 11, … in the order of their positions."""
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    is_token = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    tokens[is_token] = torch.arange(10, 10 + sum(lengths))
    return tokens


def packed_rows(tokens: Tensor, row: Tensor | None, num_sentences: int, num_heads: int) -> PackedRows:
    nothing_hidden = torch.zeros(num_sentences, 1, dtype=torch.bool)
    return PackedRows(tokens != PAD, num_heads, memory_is_pad=nothing_hidden, memory_row=row)


class TestLayout:
    COUNTS = (2, 0, 3, 1)

    def layout(self) -> Layout:
        row = torch.arange(4).repeat_interleave(torch.tensor(self.COUNTS))
        return Layout(row, torch.tensor(self.COUNTS), num_heads=2)

    def test_states_lie_in_their_rows(self) -> None:
        keys, values = torch.randn(6, 8), torch.randn(6, 8)
        (split,) = self.layout().split_heads(filled(keys))
        both = self.layout().split_heads(filled(torch.cat([keys, values], 1)), parts=2)
        assert split.shape == (4, 2, 3, 4)
        n = 0
        for row, count in enumerate(self.COUNTS):
            for column in range(count):
                for head in range(2):
                    part = slice(4 * head, 4 * head + 4)
                    assert torch.equal(split[row, head, column], keys[n, part])
                    assert torch.equal(both[0, row, head, column], keys[n, part])
                    assert torch.equal(both[1, row, head, column], values[n, part])
                n += 1

    def test_joining_undoes_splitting(self) -> None:
        x, layout = torch.randn(6, 8), self.layout()
        joined = layout.join_heads(layout.split_heads(filled(x))[0])
        assert joined.shape == (32, 8)
        assert torch.equal(joined[:6], x)
        assert not joined[6:].any()

    @pytest.mark.parametrize("parts", [1, 2])
    def test_gradients_are_autograds_of_loops(self, parts: int) -> None:
        x, layout = torch.randn(6, 8 * parts, requires_grad=True), self.layout()
        weight = torch.randn(parts, 4, 2, 3, 4)
        for row, count in enumerate(self.COUNTS):
            weight[:, row, :, count:] = 0  # nobody's

        def looped() -> Tensor:
            n, total = 0, torch.zeros(())
            for row, count in enumerate(self.COUNTS):
                for column in range(count):
                    heads = x[n].view(parts, 2, 4)
                    total = total + (heads * weight[:, row, :, column]).sum()
                    n += 1
            return total

        split = layout.split_heads(functional.pad(x, (0, 0, 0, 26)), parts)
        (found,) = torch.autograd.grad((split * weight).sum(), x)
        (expected,) = torch.autograd.grad(looped(), x)
        torch.testing.assert_close(found, expected)

        rows = torch.randn(4, 2, 3, 4, requires_grad=True)
        of_joined = torch.randn(32, 8)
        (found,) = torch.autograd.grad((layout.join_heads(rows) * of_joined).sum(), rows)
        n, expected = 0, torch.zeros_like(rows)
        for row, count in enumerate(self.COUNTS):
            for column in range(count):
                expected[row, :, column] = of_joined[n].view(2, 4)
                n += 1
        assert torch.equal(found, expected)


class TestPackedRows:
    def test_unpacks_to_where_each_position_was(self) -> None:
        """Rows of a batch in any order of their sentences."""
        tokens, row = ragged([3, 1, 2])[[2, 0, 0, 1]], torch.tensor([1, 0, 1, 0])
        packing = packed_rows(tokens, row, 3, 2)
        x = tokens.unsqueeze(-1).expand(-1, -1, 4).float()
        packed = packing.pack(x)
        assert len(packed) == 32
        assert packed[:9, 0].tolist() == [10, 11, 12, 13, 14, 15, 10, 11, 12]  # sentence 0, then 1
        assert torch.equal(packing.unpack(packed), x)
        (canvases,) = packing.own.split(packed, 1)
        assert packing.own.hidden is not None
        seen = [
            rows[0][~hidden[0], 0].tolist() for rows, hidden in zip(canvases, packing.own.hidden, strict=True)
        ]
        assert seen == [[10, 11, 12], [13], [14, 15], [10, 11, 12]]
        (sentences,) = packing.source.split(packed, 1)
        assert sentences[0, 0, :4, 0].tolist() == [10, 11, 12, 13]
        assert sentences[1, 0, :5, 0].tolist() == [14, 15, 10, 11, 12]
        assert sentences.shape == (3, 2, 5, 2)  # sentence 2 has no row

    def test_padding_may_be_anywhere(self) -> None:
        tokens = torch.tensor([[PAD, 7, PAD, 8], [9, PAD, PAD, PAD]])
        packing = packed_rows(tokens, None, 2, 1)
        x = tokens.unsqueeze(-1).float()
        assert packing.pack(x)[:3].flatten().tolist() == [7, 8, 9]
        assert torch.equal(packing.unpack(packing.pack(x)), x)

    def test_some_of_the_positions(self) -> None:
        tokens, row = ragged([3, 1, 2]), torch.tensor([1, 0, 1])
        packing = packed_rows(tokens, row, 2, 2)
        x = tokens.unsqueeze(-1).expand(-1, -1, 4).float()
        wanted = torch.tensor([[True, False, True], [False, True, True], [False, True, True]])
        some = packing.only(wanted)
        packed = some.narrow(packing.pack(x))
        assert packed[:3, 0].tolist() == [10, 12, 15]
        assert torch.equal(some.unpack(packed), torch.where((wanted & (tokens != PAD)).unsqueeze(-1), x, 0))
        (canvases,) = some.queries.split(packed, 1)
        assert canvases[0, 0, :, 0].tolist() == [10, 12]
        assert canvases[2, 0, 0, 0] == 15
        (sentences,) = some.source.split(packed, 1)
        assert sentences[1, 0, :, 0].tolist() == [10, 12, 15]
        assert packing.pack(x)[:6, 0].tolist() == [13, 10, 11, 12, 14, 15]  # as it was


@torch.no_grad()
def test_canvases_of_no_length() -> None:
    """As of a teacher that said nothing."""
    model = nat(decoder_layers=2)
    encoder_out = model.encode(sources([4, 2]))
    assert model.decode(model.blank(torch.tensor([0, 0])), encoder_out).features.shape == (2, 0, 16)
    alone = model.decode(model.blank(torch.tensor([0, 3])), encoder_out).features
    assert alone.isfinite().all()
    of_one = model.encode(sources([4, 2])).rows(torch.tensor([1]))
    expected = model.decode(model.blank(torch.tensor([3])), of_one).features
    torch.testing.assert_close(alone[1:], expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=[False, True], ids=["no gradient", "gradient"])
def way(request: pytest.FixtureRequest) -> Way:
    """Runs something twice, by the reference and packed; with the gradients of what it returns."""
    wants = request.param

    def run(model: nn.Module, make: Callable[[], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        results: list[list[Tensor]] = []
        for name in ("reference", "cpu"):
            with backend.use(name), torch.set_grad_enabled(wants):
                y = make()
            own = [y.detach()]
            if wants:
                weight = torch.linspace(-1, 1, y.numel()).view_as(y)
                given = torch.autograd.grad((y * weight).sum(), list(model.parameters()), allow_unused=True)
                own += [torch.zeros(1) if grad is None else grad for grad in given]
                assert sum(bool(grad.any()) for grad in own[1:]) > 20
            results.append(own)
        return results[0], results[1]

    return run


@pytest.mark.parametrize("norm", ["pre", "post"])
class TestModels:
    """What packs gives what does not, and the same gradient to all weights."""

    def same(self, found: tuple[list[Tensor], list[Tensor]]) -> None:
        for expected, packed in zip(*found, strict=True):
            torch.testing.assert_close(packed, expected, atol=2e-5, rtol=1e-4)

    def test_encoder(self, norm: str, way: Way) -> None:
        model, src_tokens = nat(norm=norm, encoder_layers=3), sources([4, 2, 6, 3, 3, 5])
        is_token = src_tokens != PAD
        self.same(way(model, lambda: model.encode(src_tokens).states[is_token]))
        assert not model.encode(src_tokens).states[~is_token].any()  # so it was left out

    @pytest.mark.parametrize("rows", [None, [0, 0, 1, 2, 2, 2], [2, 0, 1, 0, 2, 0]])
    @pytest.mark.parametrize(
        ("shown", "unrevealed_only"), [(0.0, False), (0.5, False), (0.5, True), (1.0, True)]
    )
    def test_nat(
        self, norm: str, way: Way, rows: list[int] | None, shown: float, unrevealed_only: bool
    ) -> None:
        model = nat(norm=norm, decoder_layers=3)
        src_tokens, tokens = sources([4, 2, 6] if rows else [4, 2, 6, 3, 3, 5]), contents([3, 5, 1, 5, 8, 2])
        revealed = (torch.rand(tokens.shape) < shown) & (tokens != PAD)
        revealed[4, 3] = False  # of all shown all but one
        inputs = DecoderInput(torch.where((tokens != PAD) & ~revealed, MASK, tokens), revealed)
        reads = inputs.is_canvas & ~revealed if unrevealed_only else None
        wanted = inputs.is_canvas if reads is None else reads

        def make() -> Tensor:
            encoder_out = model.encode(src_tokens)
            encoder_out = encoder_out.rows(torch.tensor(rows)) if rows else encoder_out
            features = model.decode(inputs, encoder_out, reads).features
            made.append(features)
            return features[wanted]

        made: list[Tensor] = []
        self.same(way(model, make))
        assert not made[1][~wanted].any()  # so it was left out

    @pytest.mark.parametrize("shown", [[True, True], [True, False]])
    def test_sentences_that_are_revealed_whole(self, norm: str, shown: list[bool]) -> None:
        """Of all that is nothing is left out, since something must be computed."""
        model, tokens = nat(norm=norm), contents([3, 5])
        encoder_out = model.encode(sources([4, 2]))
        revealed = (tokens != PAD) & torch.tensor(shown).unsqueeze(1)
        inputs = DecoderInput(torch.where((tokens != PAD) & ~revealed, MASK, tokens), revealed)
        features = model.decode(inputs, encoder_out, inputs.is_canvas & ~revealed).features
        everywhere = model.decode(inputs, encoder_out).features
        asked = inputs.is_canvas if all(shown) else inputs.is_canvas & ~revealed
        torch.testing.assert_close(features[asked], everywhere[asked])
        assert all(shown) or not features[revealed].any()
        given = torch.autograd.grad(features[asked].sum(), list(model.parameters()), allow_unused=True)
        assert all(grad.isfinite().all() for grad in given if grad is not None)

    @pytest.mark.parametrize("rows", [None, [0, 0, 1, 2, 2, 2], [2, 0, 1, 0, 2, 0]])
    def test_autoregressive(self, norm: str, way: Way, rows: list[int] | None) -> None:
        model = autoregressive(norm=norm, decoder_layers=3)
        src_tokens = sources([4, 2, 6] if rows else [4, 2, 6, 3, 3, 5])
        prefixes = model.prefixes(contents([3, 5, 1, 5, 8, 2]))
        is_token = prefixes != PAD

        def make() -> Tensor:
            encoder_out = model.encode(src_tokens)
            encoder_out = encoder_out.rows(torch.tensor(rows)) if rows else encoder_out
            return model.decode(prefixes, encoder_out).features[is_token]

        self.same(way(model, make))


def test_evaluation_without_padding_does_not_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    model, src_tokens = nat(), sources([4])
    monkeypatch.setattr(packing_module, "PackedRows", None)
    with torch.no_grad():
        model.decode(model.blank(torch.tensor([5])), model.encode(src_tokens))
    with pytest.raises(TypeError):
        model.encode(src_tokens)


def test_a_sentence_draws_the_same_dropout_with_a_gradient_and_without() -> None:
    model, src_tokens = nat(dropout=0.3).train(), sources([4])
    found = []
    for gradient in (False, True):
        torch.manual_seed(1)
        with torch.set_grad_enabled(gradient):
            found.append(model.decode(model.blank(torch.tensor([5])), model.encode(src_tokens)).features)
    torch.testing.assert_close(*found)
