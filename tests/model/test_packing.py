"""Packed positions against loops, and packed decoders against those that compute padding too."""

import pytest
import torch
from torch import Tensor

from mple.model.packing import Layout, Packing
from mple.types import MASK, PAD, DecoderInput
from tests.fakes import autoregressive, contents, nat, sources


def ragged(lengths: list[int]) -> Tensor:
    """Canvases of these lengths: 10, 11, … in the order of their positions."""
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    is_token = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    tokens[is_token] = torch.arange(10, 10 + sum(lengths))
    return tokens


class TestLayout:
    COUNTS = (2, 0, 3, 1)

    def layout(self) -> Layout:
        row = torch.arange(4).repeat_interleave(torch.tensor(self.COUNTS))
        return Layout(row, torch.tensor(self.COUNTS), num_heads=2)

    def test_states_lie_in_their_rows(self) -> None:
        keys, values = torch.randn(6, 8), torch.randn(6, 8)
        (split,) = self.layout().split_heads(keys)
        both = self.layout().split_heads(torch.cat([keys, values], 1), parts=2)
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
        assert torch.equal(layout.join_heads(layout.split_heads(x)[0]), x)


class TestPacking:
    def test_unpacks_to_where_each_position_was(self) -> None:
        """Rows of a batch in any order of their sentences, several of one canvas."""
        tokens, canvas, row = ragged([3, 1, 2]), torch.tensor([2, 0, 0, 1]), torch.tensor([1, 0, 1, 0])
        packing = Packing(tokens, canvas, row, num_sentences=3, num_heads=2)
        x = tokens.unsqueeze(-1).expand(-1, -1, 4).float()
        packed = packing.pack(x)
        assert packed[:, 0].tolist() == [10, 11, 12, 13, 14, 15, 10, 11, 12]  # sentence 0, then 1
        assert torch.equal(packing.unpack(packed), x[canvas])
        (canvases,) = packing.canvases.split_heads(packed)
        assert packing.hidden is not None
        seen = [
            rows[0][~hidden[0], 0].tolist() for rows, hidden in zip(canvases, packing.hidden, strict=True)
        ]
        assert seen == [[10, 11, 12], [13], [14, 15], [10, 11, 12]]
        (sentences,) = packing.sentences.split_heads(packed)
        assert sentences[0, 0, :4, 0].tolist() == [10, 11, 12, 13]
        assert sentences[1, 0, :5, 0].tolist() == [14, 15, 10, 11, 12]
        assert sentences.shape == (3, 2, 5, 2)  # sentence 2 has no row

    def test_padding_may_be_anywhere(self) -> None:
        tokens = torch.tensor([[PAD, 7, PAD, 8], [9, PAD, PAD, PAD]])
        packing = Packing(tokens, None, None, num_sentences=2, num_heads=1)
        x = tokens.unsqueeze(-1).float()
        assert packing.pack(x).flatten().tolist() == [7, 8, 9]
        assert torch.equal(packing.unpack(packing.pack(x)), x)


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


@pytest.mark.parametrize("rows", [None, [0, 0, 1, 2, 2, 2], [2, 0, 1, 0, 2, 0]])
class TestDecoder:
    """Without gradient padding is left out, with it not."""

    @pytest.mark.parametrize("norm", ["pre", "post"])
    @pytest.mark.parametrize("shown", [False, True])
    def test_says_the_same(self, rows: list[int] | None, norm: str, shown: bool) -> None:
        model = nat(norm=norm, decoder_layers=3)
        encoder_out = model.encode(sources([4, 2, 6] if rows else [4, 2, 6, 3, 3, 5]))
        if rows:
            encoder_out = encoder_out.rows(torch.tensor(rows))
        tokens = contents([3, 5, 1, 5, 8, 2])
        revealed = (torch.rand(tokens.shape) < 0.5) & (tokens != PAD) & shown
        tokens = torch.where((tokens != PAD) & ~revealed, MASK, tokens)
        inputs = DecoderInput(tokens, revealed)
        expected = model.decode(inputs, encoder_out).features
        with torch.no_grad():
            found = model.decode(inputs, encoder_out).features
        is_canvas = inputs.is_canvas
        torch.testing.assert_close(found[is_canvas], expected[is_canvas], atol=1e-5, rtol=1e-5)
        assert not found[~is_canvas].any()  # so it was left out

    def test_autoregressive(self, rows: list[int] | None) -> None:
        model = autoregressive(decoder_layers=3)
        encoder_out = model.encode(sources([4, 2, 6] if rows else [4, 2, 6, 3, 3, 5]))
        if rows:
            encoder_out = encoder_out.rows(torch.tensor(rows))
        prefixes = model.prefixes(contents([3, 5, 1, 5, 8, 2]))
        expected = model.decode(prefixes, encoder_out).features
        with torch.no_grad():
            found = model.decode(prefixes, encoder_out).features
        is_token = prefixes != PAD
        torch.testing.assert_close(found[is_token], expected[is_token], atol=1e-5, rtol=1e-5)
        assert not found[~is_token].any()
