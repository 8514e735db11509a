"""What holds for every vanilla input, alone, in the model and in the configuration."""

import dataclasses
import inspect
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.launch import Job
from mple.model.length import LengthPredictor
from mple.model.nat import NAT
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_input.glancing import Glancing
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import EOS, MASK, PAD, DecoderInput, EncoderOutput
from mple.vanilla_input import VanillaInput
from mple.vanilla_input.attention_copy import AttentionCopy
from mple.vanilla_input.mask import Mask
from mple.vanilla_input.soft_copy import SoftCopy
from mple.vanilla_input.uniform_copy import UniformCopy
from tests.fakes import VOCABULARY, contents, count_decodes, random_batch, sources, take, tiny_size
from tests.vanilla_input.copies import D, canvas, source

CONF = Path(__file__).parents[2] / "conf"
COPIES = ("uniform_copy", "soft_copy", "attention_copy")
NAMES = ("mask", *COPIES)
SRC_LENGTHS, LENGTHS = [4, 2, 6, 3, 1], [5, 1, 8, 3, 7]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def made(name: str, width: int = D) -> VanillaInput:
    torch.manual_seed(0)
    inputs: dict[str, VanillaInput] = {
        "mask": Mask(),
        "uniform_copy": UniformCopy(),
        "soft_copy": SoftCopy(),
        "attention_copy": AttentionCopy(width),
    }
    return inputs[name]


def nat(name: str, **size: Any) -> NAT:
    """A model of random weights; those of all vanilla inputs share their other weights."""
    vanilla_input = made(name, width=16)
    torch.manual_seed(0)
    length = partial(LengthPredictor, max_offset=3)
    model = NAT(tiny_size(**size), length, VOCABULARY, VOCABULARY, False, vanilla_input=vanilla_input)
    for weight_name, weight in model.named_parameters():
        seed = zlib.crc32(weight_name.encode())
        nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_satisfies_the_protocol(name: str) -> None:
    assert isinstance(made(name), VanillaInput)
    found = made(name)(torch.tensor([3, 5]), source([4, 2]), canvas(5))
    assert found is None if name == "mask" else found.shape == (2, 5, D)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", COPIES)
class TestCopies:
    """Lengths of canvas and source of every kind: T = 1, S = 1, T below, at and above S."""

    def test_padding_changes_nothing_at_either_side(self, name: str) -> None:
        copy, lengths = made(name), torch.tensor(LENGTHS)
        expected = copy(lengths, source(SRC_LENGTHS), canvas(8))
        assert expected is not None
        assert expected.isfinite().all()
        for left, right in ((0, 5), (5, 0), (2, 3)):
            found = copy(lengths, source(SRC_LENGTHS, left, right), canvas(8))
            assert found is not None
            close(found, expected)

    def test_a_batch_is_one_by_one(self, name: str) -> None:
        copy = made(name)
        together = copy(torch.tensor(LENGTHS), source(SRC_LENGTHS), canvas(8))
        assert together is not None
        for b, (src_length, length) in enumerate(zip(SRC_LENGTHS, LENGTHS, strict=True)):
            alone = copy(torch.tensor([length]), source([src_length], seed=b), canvas(length))
            assert alone is not None
            close(alone[0], together[b, :length])

    def test_copies_no_eos_and_no_pad(self, name: str) -> None:
        found = made(name)(torch.tensor(LENGTHS), source(SRC_LENGTHS), canvas(8))
        assert found is not None
        assert found.abs().max() < 10  # their words are 1000

    def test_needs_the_sources_words(self, name: str) -> None:
        bare = EncoderOutput(torch.zeros(1, 3, D), torch.zeros(1, 3, dtype=torch.bool))
        with pytest.raises(ValueError, match="source"):
            made(name)(torch.tensor([2]), bare, canvas(2))

    def test_an_empty_source_shows_its_eos(self, name: str) -> None:
        model = nat(name)
        encoder_out = model.encode(torch.tensor([[EOS, PAD, PAD]]))
        found = model.vanilla_input(torch.tensor([4]), encoder_out, torch.zeros(4, 16))
        assert found is not None
        close(found[0], (model.encoder.embedding.tokens.weight[EOS] * 4).expand(4, 16))


class TestEncoderOutput:
    def test_words_are_scaled_embeddings_without_position_or_dropout(self) -> None:
        model = nat("mask", dropout=0.5).train()
        src_tokens = sources(SRC_LENGTHS)
        found = model.encode(src_tokens).source
        assert found is not None
        close(found.words, model.encoder.embedding.tokens.weight[src_tokens] * 4)  # √16
        close(found.positions, model.encoder.embedding.positions.weight[: src_tokens.shape[1]])
        assert found.is_content.sum(1).tolist() == SRC_LENGTHS
        assert (src_tokens[found.is_content] > EOS).all()

    def test_rows_and_to_carry_the_source(self) -> None:
        whole = source([4, 2, 6])
        some = whole.rows(torch.tensor([2, 0, 2])).source
        assert some is not None
        assert whole.source is not None
        assert torch.equal(some.words, whole.source.words[[2, 0, 2]])
        assert torch.equal(some.is_content, whole.source.is_content[[2, 0, 2]])
        assert torch.equal(some.positions, whole.source.positions)
        moved = whole.to("meta")
        assert isinstance(moved, EncoderOutput)
        assert moved.source is not None
        assert moved.source.words.device.type == "meta"
        assert EncoderOutput(whole.states, whole.is_pad).rows(torch.tensor([1])).source is None


class TestModel:
    @pytest.mark.parametrize("name", NAMES)
    def test_first_layer_reads_copies_where_nothing_is_revealed(self, name: str) -> None:
        """<mask> or the copy where masked, the target's word where revealed, positions everywhere."""
        model, batch = nat(name), random_batch(SRC_LENGTHS, LENGTHS)
        encoder_out, read = model.encode(batch.src_tokens), []
        first: Any = model.decoder.layers[0]
        first.attend.norm.register_forward_pre_hook(lambda _, x: read.append(x[0]))
        revealed = (contents(LENGTHS, seed=5) % 2 == 1) & (batch.tgt_tokens != PAD)
        tokens = torch.where(revealed, batch.tgt_tokens, (batch.tgt_tokens != PAD) * MASK)
        latent = torch.randn(*tokens.shape, 16, generator=torch.Generator().manual_seed(1))
        model.decode(DecoderInput(tokens, revealed, latent), encoder_out)
        table, positions = model.decoder.embedding.tokens.weight, model.decoder.embedding.positions.weight[:8]
        copied = model.vanilla_input(torch.tensor(LENGTHS), encoder_out, positions)
        if copied is None:
            copied = (4 * table[MASK]).expand(5, 8, 16)
        words = torch.where(revealed.unsqueeze(-1), 4 * table[tokens], copied)
        is_canvas = tokens != PAD
        count = int(is_canvas.sum())  # packed
        close(read[0][:count], (words + positions + latent)[is_canvas])
        assert 0 < revealed.sum() < is_canvas.sum()

    def test_mask_is_a_model_without_vanilla_inputs_to_the_bit(self) -> None:
        model, batch = nat("mask"), random_batch(SRC_LENGTHS, LENGTHS)
        encoder_out, inputs = model.encode(batch.src_tokens), model.blank(batch.tgt_lengths)
        bare = EncoderOutput(encoder_out.states, encoder_out.is_pad)
        direct = model.decoder(inputs.tokens, bare)
        assert torch.equal(model.decode(inputs, encoder_out).features, direct)
        length = partial(LengthPredictor, max_offset=3)
        torch.manual_seed(3)
        default = NAT(tiny_size(), length, VOCABULARY, VOCABULARY, True)
        torch.manual_seed(3)
        masked = NAT(tiny_size(), length, VOCABULARY, VOCABULARY, True, vanilla_input=Mask())
        assert default.vanilla_input == Mask()
        pairs = zip(default.state_dict().items(), masked.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)

    @pytest.mark.parametrize("name", COPIES)
    def test_a_copy_stands_in_place_of_mask(self, name: str) -> None:
        """Another output; a gradient for the copied words and for W, none for <mask>."""
        batch, model, plain = random_batch(SRC_LENGTHS, LENGTHS), nat(name), nat("mask")
        blank, encoded = model.blank(batch.tgt_lengths), model.encode(batch.src_tokens)
        assert encoded.source is not None
        words = encoded.source.words.detach().requires_grad_()
        source_words = dataclasses.replace(encoded.source, words=words)
        encoder_out = EncoderOutput(encoded.states.detach(), encoded.is_pad, source_words)
        features = model.decode(blank, encoder_out).features
        assert not torch.allclose(features, plain.decode(blank, encoder_out).features, atol=1e-2)
        features[blank.is_canvas].square().sum().backward()
        assert words.grad is not None
        norms = words.grad.norm(dim=-1)
        assert (norms[~source_words.is_content] == 0).all()
        if name != "uniform_copy":  # which leaves out words where the source is longer than the canvas
            assert (norms[source_words.is_content] > 0).all()
        table = model.decoder.embedding.tokens.weight.grad
        assert table is not None
        assert not table[MASK].any()
        if isinstance(model.vanilla_input, AttentionCopy):
            assert model.vanilla_input.query.weight.grad is not None
            assert model.vanilla_input.query.weight.grad.any()

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("choice", ["uniform", "one_minus_p_ref"])
    def test_goes_with_glancing_in_any_batch(self, name: str, choice: str) -> None:
        """Z, the loss of each sentence and the number of passes, together and one by one."""
        batch, glancing = random_batch(SRC_LENGTHS, LENGTHS), Glancing(0.8, 0.8, choice=choice)

        def trained(rows: list[int]) -> tuple[DecoderInput, float]:
            model, some = nat(name), take(batch, rows)
            encoder_out = model.encode(some.src_tokens)
            look = Snapshot(model, encoder_out, some.ids, some.tgt_lengths, Draws(1, 3), 3, 100)
            calls = count_decodes(model)
            target = Raw()(some, look)
            inputs = glancing(some, target, look)
            nll = CrossEntropy()(look.decode(inputs), target, inputs)["nll"]
            assert calls.rows == [len(rows)] * 2
            return inputs, float(nll.total)

        together, total = trained([0, 1, 2, 3, 4])
        assert together.revealed.any()
        summed = 0.0
        for row, length in enumerate(LENGTHS):
            alone, nll = trained([row])
            assert torch.equal(alone.tokens[0], together.tokens[row, :length])
            summed += nll
        assert summed == pytest.approx(total, rel=1e-4)

    @pytest.mark.parametrize("name", NAMES)
    def test_decodes_alike_in_any_batch(self, name: str) -> None:
        """On canvases as long as the length predictor says, up to 3 tokens longer than the source."""
        model = nat(name)
        model.length.classes.bias.data[-1] = 1e4  # three more than the source has
        src_tokens = sources(SRC_LENGTHS)
        together = Argmax()(model, functional.pad(src_tokens, (0, 3), value=PAD))
        for row, length in enumerate(SRC_LENGTHS):
            alone = Argmax()(model, src_tokens[row : row + 1, : length + 1])
            assert alone.tokens.shape[1] == length + 3
            assert torch.equal(alone.tokens[0], together.tokens[row, : length + 3])
            close(alone.scores[0], together.scores[row])

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("norm", ["pre", "post"])
    @pytest.mark.parametrize("name", NAMES)
    def test_blank_canvases_are_decoded_alike_with_gradient_and_without(
        self, name: str, norm: str, autocast: bool
    ) -> None:
        """Without, those of one length share work. Here are several canvases
        of a sentence and several of a length."""
        model, lengths = nat(name, norm=norm), torch.tensor([5, 3, 5, 1, 8, 5])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            encoder_out = model.encode(sources(SRC_LENGTHS)).rows(torch.tensor([0, 0, 1, 2, 2, 4]))
            blank = model.blank(lengths)
            expected = model.decode(blank, encoder_out).logits_at(blank.is_canvas).float()
            with torch.no_grad():
                found = model.decode(blank, encoder_out).logits_at(blank.is_canvas).float()
        atol = 0.05 * float(expected.detach().abs().max()) if autocast else 1e-5  # bf16 has 8 bits
        torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_sentence_alone_has_the_same_dropout_with_gradient_and_without(self, name: str) -> None:
        model = nat(name, dropout=0.3).train()
        encoder_out, blank = model.encode(sources([4])), model.blank(torch.tensor([6]))
        torch.manual_seed(5)
        expected = model.decode(blank, encoder_out)
        torch.manual_seed(5)
        with torch.no_grad():
            found = model.decode(blank, encoder_out)
        # Not to the bit: without gradient a product may be another kernel's. Other dropout would be far off.
        torch.testing.assert_close(found.features, expected.features, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("name", NAMES)
    def test_candidates_share_passes_whatever_the_input(self, name: str) -> None:
        model, batch = nat(name), random_batch(SRC_LENGTHS[:3], LENGTHS[:3], [[3, 5], [6, 6], [1, 9]])
        assert batch.tgt_candidates is not None
        encoder_out = model.encode(batch.src_tokens)
        look = Snapshot(model, encoder_out, batch.ids, batch.tgt_lengths, Draws(1, 0), 0, 100)
        nll = look.candidate_nll(batch.tgt_candidates)
        for k in range(2):
            tokens = batch.tgt_candidates[:, k]
            lengths = (tokens != PAD).sum(1)
            own = Snapshot(model, encoder_out, batch.ids, lengths, Draws(1, 0), 0, 100)
            close(nll[:, k], -own.log_probs(tokens[:, : int(lengths.max())]).sum(1))


class TestConfiguration:
    @pytest.fixture(autouse=True)
    def configuration(self) -> Iterator[None]:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            yield

    def test_every_file_is_tested_here(self) -> None:
        assert sorted(path.stem for path in (CONF / "vanilla_input").glob("*.yaml")) == sorted(NAMES)

    @pytest.mark.parametrize("name", NAMES)
    def test_makes_the_models_vanilla_input(self, name: str) -> None:
        overrides = ["+experiment=glat_kd", f"vanilla_input={name}", "data=grammar"]
        cfg = hydra.compose("train", overrides)
        node: Any = OmegaConf.to_container(cfg.vanilla_input, resolve=True)
        assert node["_target_"].rpartition(".")[0] == f"mple.vanilla_input.{name}"
        parameters = inspect.signature(hydra.utils.get_class(node["_target_"])).parameters
        assert set(node) - {"_target_"} == set(parameters)
        job = Job(cfg, overrides)
        model = instantiate(job.cfg.module.model, _convert_="all")(
            size=job.size, src_size=30, tgt_size=30, is_joint=True, says_blank=False
        )
        assert type(model.vanilla_input) is hydra.utils.get_class(node["_target_"])
        assert isinstance(model.vanilla_input, nn.Module) == (name == "attention_copy")
        output = model.decode(model.blank(torch.tensor([3])), model.encode(sources([4])))
        assert output.features.shape == (1, 3, job.size.d_model)

    def test_is_a_setting_of_students_alone(self) -> None:
        def key(*overrides: str) -> str:
            return Job(hydra.compose("train", list(overrides)), list(overrides)).run.key

        assert key("+experiment=glat_raw", "vanilla_input=soft_copy") != key("+experiment=glat_raw")
        with pytest.raises(UserError, match="vanilla_input=soft_copy would have no effect"):
            key("+experiment=at", "vanilla_input=soft_copy")
