"""The Transformer's parts against torch's own, cached against full decoding, and padding against none."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mple import backend
from mple.backend.cpu.dropout import draw
from mple.backend.rows import DenseRows, DenseView
from mple.checks import UserError
from mple.decoding.beam import Beam, Incremental
from mple.model.attention import Attention
from mple.model.autoregressive import Autoregressive
from mple.model.dropout import Dropout
from mple.model.length import LengthPredictor
from mple.model.transformer import Size, sinusoids
from mple.types import BOS, EOS, MASK, PAD, EncoderOutput
from tests.fakes import CONTENT, VOCABULARY, autoregressive, contents, nat, pad_right, sources, tiny_size

NORMS = pytest.mark.parametrize("norm", ["pre", "post"])


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


def dense(hidden: Tensor | None) -> DenseRows:
    return DenseRows(DenseView(4, hidden), DenseView(4, None))


class TestAttention:
    @staticmethod
    def parts(hidden_shape: tuple[int, ...]) -> tuple[Attention, Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        attention = Attention(16, 4, dropout=0.0)
        for weight in attention.parameters():
            nn.init.normal_(weight, std=0.3)
        x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
        hidden = torch.rand(hidden_shape) < 0.4
        hidden[..., 0] = False
        return attention, x, memory, hidden

    @pytest.mark.parametrize("shape", [(3, 1, 7), (3, 5, 7)])
    def test_equals_torch_multihead_attention(self, shape: tuple[int, ...]) -> None:
        attention, x, memory, hidden = self.parts(shape)
        torchs = nn.MultiheadAttention(16, 4, batch_first=True)
        with torch.no_grad():
            torchs.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
            torchs.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
            torchs.out_proj.load_state_dict(attention.output.state_dict())
        keys_values = attention.keys_values(memory)
        mask = hidden.expand(3, 5, 7).repeat_interleave(4, 0)
        close(attention.attend(x, keys_values, hidden), torchs(x, memory, memory, attn_mask=mask)[0])
        close(attention.attend(x, keys_values, None), torchs(x, memory, memory)[0])
        close(attention(x, dense(hidden[..., :5])), torchs(x, x, x, attn_mask=mask[..., :5])[0])
        close(attention(x, dense(None)), torchs(x, x, x)[0])

    @pytest.mark.parametrize("is_self", [False, True])
    def test_equals_the_fused_kernel_and_so_does_its_gradient(self, is_self: bool) -> None:
        attention, x, memory, hidden = self.parts((3, 1, 5 if is_self else 7))
        memory = x if is_self else memory
        weight = torch.randn(3, 5, 16)
        key, value = attention.keys_values(memory)
        query = attention.query(x).unflatten(-1, (4, -1)).transpose(1, 2)
        fused = functional.scaled_dot_product_attention(query, key, value, ~hidden.unsqueeze(1))
        fused = attention.output(fused.transpose(1, 2).flatten(2))
        own = (
            attention(x, dense(hidden))
            if is_self
            else attention.attend(x, attention.keys_values(memory), hidden)
        )
        close(own, fused)
        parameters = list(attention.parameters())
        for actual, expected in zip(
            torch.autograd.grad((own * weight).sum(), parameters),
            torch.autograd.grad((fused * weight).sum(), parameters),
            strict=True,
        ):
            close(actual, expected)

    @pytest.mark.parametrize("is_self", [False, True])
    def test_its_gradient_with_dropout_is_autograds(self, is_self: bool) -> None:
        torch.manual_seed(0)
        heads = torch.randn(3, 4, 2, 6, 8, requires_grad=True)
        bias = torch.where(torch.rand(4, 1, 1, 6) < 0.3, -torch.inf, 0.0)
        bias[..., 0] = 0.0
        grad, hidden = torch.randn(4, 2, 6, 8), bias[:, 0] < 0

        def written_out() -> Tensor:
            query, own = (None, heads) if is_self else (heads[0], heads[1:])
            return backend.attend(query, own, hidden, 0.3)

        def plain() -> Tensor:
            query, key, value = heads
            drawn = draw(torch.Size([4, 2, 6, 6]), 0.3)
            assert drawn is not None
            weights = (8**-0.5 * query @ key.transpose(-1, -2) + bias).softmax(-1)
            return (weights * drawn[0] * drawn[1]) @ value

        found = []
        for way in (written_out, plain):
            torch.manual_seed(1)
            y = way()
            found.append((y.detach(), *torch.autograd.grad(y, heads, grad)))
        assert bool((found[0][1] != 0).any())
        for actual, expected in zip(*found, strict=True):
            close(actual, expected)


class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.3])
    def test_rate_and_mean(self, p: float) -> None:
        torch.manual_seed(0)
        count = 10**6
        y = Dropout(p)(torch.ones(count))
        rate = round(p * 256) / 256
        assert abs(rate - p) <= 1 / 512
        deviation = (rate * (1 - rate) / count) ** 0.5
        assert abs((y == 0).double().mean() - rate) < 5 * deviation
        assert abs(y.double().mean() - 1) < 5 * deviation / (1 - rate)
        close(y[y != 0].unique(), torch.tensor([1 / (1 - rate)]))

    def test_bytes_are_independent_of_their_neighbours(self) -> None:
        torch.manual_seed(0)
        dropped = (Dropout(0.5)(torch.ones(10**6)) == 0).double()
        for lag in (1, 2, 3, 4, 8):
            assert abs(torch.corrcoef(torch.stack([dropped[:-lag], dropped[lag:]]))[0, 1]) < 5e-3

    @pytest.mark.parametrize("shape", [(7,), (3, 5, 11)])
    def test_backward_has_the_mask_of_the_forward(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        x = (torch.rand(shape) + 1).requires_grad_()
        weight = torch.randn(shape)
        y = Dropout(0.4)(x)
        y.backward(weight)
        close(x.grad, weight * (y / x).detach())  # type: ignore[arg-type]

    def test_works_on_a_transposed_input(self) -> None:
        torch.manual_seed(0)
        x = torch.arange(1.0, 13).view(3, 4).t().requires_grad_()
        y = Dropout(0.5)(x)
        kept = y != 0
        close(y[kept], 2 * x[kept])

    def test_identity_without_training_and_at_zero(self) -> None:
        x = torch.randn(10)
        assert Dropout(0.5).eval()(x) is x
        assert Dropout(0.0)(x) is x

    @pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
    def test_refuses(self, p: float) -> None:
        with pytest.raises(UserError, match="dropout"):
            Dropout(p)


class TestSize:
    def test_refusals_name_the_key(self) -> None:
        with pytest.raises(UserError, match=r"size\.d_model.*size\.num_heads"):
            tiny_size(d_model=15)
        with pytest.raises(UserError, match=r"size\.norm must be one of post, pre; got 'rms'"):
            tiny_size(norm="rms")
        with pytest.raises(UserError, match=r"size\.encoder_layers"):
            tiny_size(encoder_layers=0)
        with pytest.raises(UserError, match=r"size\.dropout"):
            Size(dropout=1.0)


class TestSinusoidalPositions:
    def test_values_and_differences(self) -> None:
        """sin and cos of p / 10000^(i/(h − 1)); the product of two rows depends on their distance alone."""
        table = sinusoids(50, 8)
        for p, i in ((0, 0), (3, 1), (49, 3)):
            angle = p / 10_000 ** (i / 3)
            assert float(table[p, i]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(table[p, 4 + i]) == pytest.approx(math.cos(angle), abs=1e-6)
        close((table[3] * table[10]).sum(), (table[33] * table[40]).sum())
        assert sinusoids(4, 5)[:, 4].tolist() == [0.0] * 4

    def test_model_has_no_weights_of_positions_and_decodes_with_a_cache(self) -> None:
        torch.manual_seed(0)
        model = Autoregressive(tiny_size(), VOCABULARY, VOCABULARY, True, "sinusoidal").eval()
        learned = Autoregressive(tiny_size(), VOCABULARY, VOCABULARY, True)
        assert not [name for name in model.state_dict() if "positions" in name]
        missing = set(learned.state_dict()) - set(model.state_dict())
        assert missing == {f"{side}.embedding.positions.weight" for side in ("encoder", "decoder")}
        src, tgt = sources([4, 6]), contents([5, 5])
        prefixes = model.prefixes(tgt)
        expected = model.decode(prefixes, model.encode(src)).logits.log_softmax(-1)
        state = model.start(src)
        for position in range(prefixes.shape[1]):
            close(model.step(prefixes[:, position], state), expected[:, position])


class TestAutoregressive:
    def test_prefixes_and_labels(self) -> None:
        model = autoregressive()
        tokens = torch.tensor([[7, 8, 9], [10, PAD, PAD]])
        assert model.prefixes(tokens).tolist() == [[BOS, 7, 8, 9], [BOS, 10, PAD, PAD]]
        assert model.labels(tokens).tolist() == [[7, 8, 9, EOS], [10, EOS, PAD, PAD]]

    def test_a_prefix_does_not_see_what_follows(self) -> None:
        model = autoregressive()
        encoder_out = model.encode(sources([3, 5]))
        prefixes = model.prefixes(contents([6, 6]))
        whole = model.decode(prefixes, encoder_out).logits
        for length in range(1, 7):
            close(model.decode(prefixes[:, :length], encoder_out).logits, whole[:, :length])

    @NORMS
    def test_cached_decoding_equals_recomputation(self, norm: str) -> None:
        model = autoregressive(norm=norm)
        src_tokens, tokens = sources([3, 6, 5]), contents([7, 7, 7], seed=5)
        assert isinstance(model, Incremental)
        prefixes = model.prefixes(tokens)
        expected = model.decode(prefixes, model.encode(src_tokens)).logits.log_softmax(-1)
        state = model.start(src_tokens)
        for i in range(prefixes.shape[1]):
            close(model.step(prefixes[:, i], state), expected[:, i])

    def test_selected_states_continue_the_rows_they_name(self) -> None:
        """Three sentences; their sequences are repeated, dropped and reordered, and sentences leave."""
        model = autoregressive()
        src_tokens, prefixes = sources([3, 6, 5]), torch.full((3, 1), BOS)
        state = model.start(src_tokens)
        generator = torch.Generator().manual_seed(3)
        owner = torch.arange(3)
        first, two, without = [[0], [1], [2]], [[0, 0], [1, 1], [2, 2]], [[1, 0, 1], [5, 5, 4]]
        for rows in (first, two, [[1, 0], [2, 2], [4, 5]], without, [[2, 0], [3, 4]], [[3, 2]], [[1]]):
            expected = model.decode(prefixes, model.encode(src_tokens[owner])).logits[:, -1].log_softmax(-1)
            close(model.step(prefixes[:, -1], state), expected)
            index = torch.tensor(rows)
            state, owner = state.select(index), owner[index.flatten()]
            tokens = torch.randint(CONTENT, VOCABULARY, (index.numel(), 1), generator=generator)
            prefixes = torch.cat([prefixes[index.flatten()], tokens], 1)
        assert owner.tolist() == [2]

    def test_selecting_leaves_the_old_state_usable(self) -> None:
        model = autoregressive()
        state = model.start(sources([3, 6]))
        model.step(torch.tensor([BOS, BOS]), state)
        other = state.select(torch.tensor([[1]]))
        model.step(torch.tensor([7]), other)
        prefixes = torch.tensor([[BOS, 9], [BOS, 8]])
        expected = model.decode(prefixes, model.encode(sources([3, 6]))).logits[:, -1].log_softmax(-1)
        close(model.step(prefixes[:, -1], state), expected)

    @staticmethod
    def greedy(model: Autoregressive, src_tokens: Tensor, limit: int) -> tuple[list[int], float]:
        """The most probable token after every prefix, each time from scratch."""
        tokens: list[int] = []
        score = 0.0
        while True:
            prefix = torch.tensor([[BOS, *tokens]])
            log_probs = model.decode(prefix, model.encode(src_tokens)).logits[0, -1].log_softmax(-1)
            allowed = [
                *([EOS] if tokens else []),
                *(range(CONTENT, VOCABULARY) if len(tokens) < limit else []),
            ]
            best = max(allowed, key=lambda token: float(log_probs[token]))
            score += float(log_probs[best])
            if best == EOS:
                return tokens, score
            tokens.append(best)

    @torch.no_grad()
    def test_beam_of_one_is_greedy(self) -> None:
        model = autoregressive()
        lengths = [1, 4, 9, 2, 6, 3, 5, 7]
        src_tokens = sources(lengths, seed=2)
        with torch.no_grad():  # eos probable enough that sentences end at different lengths
            model.decoder.embedding.tokens.weight[EOS] *= 2.0
        found = Beam(1, max_length_factor=1.0, max_length_offset=2)(model, src_tokens)
        ends = set()
        for row, length in enumerate(lengths):
            tokens, score = self.greedy(model, src_tokens[row : row + 1, : length + 1], length + 2)
            assert [t for t in found.tokens[row].tolist() if t != PAD] == tokens
            assert float(found.scores[row]) == pytest.approx(score, abs=1e-4)
            ends.add(len(tokens) < length + 2)
        assert ends == {False, True}

    def test_more_padding_changes_neither_logits_nor_loss(self) -> None:
        model = autoregressive()
        src_tokens, tokens = sources([2, 5, 4]), contents([4, 2, 3])

        def run(src_tokens: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            logits = model.decode(model.prefixes(tokens), model.encode(src_tokens)).logits
            labels = model.labels(tokens)
            loss = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=PAD)
            return logits[labels != PAD], loss

        logits, loss = run(src_tokens, tokens)
        for wider_logits, wider_loss in (
            run(pad_right(src_tokens, 4), tokens),
            run(src_tokens, pad_right(tokens, 3)),
        ):
            close(wider_logits, logits)
            close(wider_loss, loss)
        alone = [
            run(src_tokens[b : b + 1, : n + 1], tokens[b : b + 1, :m])[0]
            for b, n, m in ((0, 2, 4), (1, 5, 2), (2, 4, 3))
        ]
        close(torch.cat(alone), logits)


class TestNAT:
    @NORMS
    @torch.no_grad()
    def test_padding_and_company_change_nothing(self, norm: str) -> None:
        model = nat(norm=norm, encoder_layers=2)
        src_lengths, lengths = [2, 6, 4], [5, 3, 1]
        src_tokens = sources(src_lengths)
        encoder_out = model.encode(src_tokens)
        inputs = model.blank(torch.tensor(lengths))
        logits = model.decode(inputs, encoder_out).logits_at(inputs.is_canvas)
        log_probs = model.length.log_probs(encoder_out)

        wider = model.encode(pad_right(src_tokens, 5))
        close(
            wider.states[:, : src_tokens.shape[1]][~encoder_out.is_pad],
            encoder_out.states[~encoder_out.is_pad],
        )
        close(model.length.log_probs(wider), log_probs)
        close(model.decode(inputs, wider).logits_at(inputs.is_canvas), logits)
        canvas = type(inputs)(pad_right(inputs.tokens, 4), functional.pad(inputs.revealed, (0, 4)))
        close(model.decode(canvas, wider).logits_at(canvas.is_canvas), logits)

        alone, alone_length = [], []
        for b, (n, m) in enumerate(zip(src_lengths, lengths, strict=True)):
            own = model.encode(src_tokens[b : b + 1, : n + 1])
            alone.append(model.decode(model.blank(torch.tensor([m])), own).logits[0])
            alone_length.append(model.length.log_probs(own))
        close(torch.cat(alone), logits)
        close(torch.cat(alone_length), log_probs)

    def test_a_token_of_z_changes_what_other_positions_say(self) -> None:
        model = nat()
        encoder_out, inputs = model.encode(sources([4])), model.blank(torch.tensor([4]))
        shown = type(inputs)(torch.tensor([[MASK, MASK, MASK, 9]]), inputs.revealed)
        difference = (model.decode(shown, encoder_out).logits - model.decode(inputs, encoder_out).logits)[0]
        assert (difference.abs().amax(1) > 1e-3).all()  # to the left as well: no causal mask

    def test_a_latent_is_added(self) -> None:
        model = nat()
        encoder_out, inputs = model.encode(sources([4])), model.blank(torch.tensor([3]))
        latent = torch.zeros(1, 3, 16)
        plain = model.decode(inputs, encoder_out).features
        close(model.decode(type(inputs)(inputs.tokens, inputs.revealed, latent), encoder_out).features, plain)
        latent = latent + model.decoder.embedding.positions.weight[0]
        moved = model.decode(type(inputs)(inputs.tokens, inputs.revealed, latent), encoder_out).features
        assert (moved - plain).abs().max() > 1e-3

    def test_blank_canvas(self) -> None:
        inputs = nat().blank(torch.tensor([3, 1]))
        assert inputs.tokens.tolist() == [[MASK, MASK, MASK], [MASK, PAD, PAD]]
        assert not inputs.revealed.any()

    def test_embeddings_are_tied(self) -> None:
        for make in (nat, autoregressive):
            joint, apart = make(is_joint=True), make(is_joint=False)
            assert joint.encoder.embedding.tokens is joint.decoder.embedding.tokens
            assert joint.encoder.embedding.positions is not joint.decoder.embedding.positions
            assert apart.encoder.embedding.tokens is not apart.decoder.embedding.tokens
        model = nat()
        output = model.decode(model.blank(torch.tensor([2])), model.encode(sources([3])))
        assert output.weight is model.decoder.embedding.tokens.weight
        assert sum(p is output.weight for p in model.parameters()) == 1

    def test_sentence_that_is_too_long(self) -> None:
        for model in (nat(max_positions=8), autoregressive(max_positions=8)):
            model.encode(sources([7]))  # and eos: 8
            with pytest.raises(UserError, match=r"9 tokens.*size\.max_positions=8"):
                model.encode(sources([8]))
        model = nat(max_positions=8)
        with pytest.raises(UserError, match=r"size\.max_positions=8"):
            model.decode(model.blank(torch.tensor([9])), model.encode(sources([3])))

    def test_dropout_is_on_in_training_only(self) -> None:
        model = nat(dropout=0.3)
        src_tokens = sources([4, 5])
        close(model.encode(src_tokens).states, model.encode(src_tokens).states, atol=0)
        model.train()
        assert (model.encode(src_tokens).states - model.encode(src_tokens).states).abs().max() > 1e-2


class TestLengthPredictor:
    @staticmethod
    def encoded(lengths: list[int], seed: int = 0) -> EncoderOutput:
        """Random states of sources with `lengths` content tokens; junk at the padding."""
        is_pad = torch.arange(max(lengths) + 1) > torch.tensor(lengths).unsqueeze(1)
        generator = torch.Generator().manual_seed(seed)
        return EncoderOutput(torch.randn(*is_pad.shape, 16, generator=generator), is_pad)

    @staticmethod
    def predictor(**changes: object) -> LengthPredictor:
        torch.manual_seed(1)
        return LengthPredictor(16, **({"max_length": 64} | changes))  # type: ignore[arg-type]

    def test_source_lengths_leave_eos_out(self) -> None:
        model = nat()
        assert model.length.source_lengths(model.encode(sources([3, 1, 5]))).tolist() == [3, 1, 5]

    @torch.no_grad()
    def test_loss_against_a_loop(self) -> None:
        predictor, encoder_out = self.predictor(max_offset=2, weight=0.3), self.encoded([3, 5, 4, 6])
        lengths = torch.tensor([2, 5, 6, 7])
        loss = predictor.loss(encoder_out, lengths)
        total = 0.0
        for b, n in enumerate([3, 5, 4, 6]):
            mean = encoder_out.states[b, : n + 1].mean(0)
            logits = predictor.classes(mean)
            total += float(functional.cross_entropy(logits, lengths[b] - n + 2))
        assert loss["length"].value() == pytest.approx(0.3 * total / 4, rel=1e-5)
        assert loss["length_clamped"].value() == 0

    def test_lengths_outside_the_window_are_clamped_and_counted(self) -> None:
        predictor, encoder_out = self.predictor(max_offset=2), self.encoded([5, 5, 5, 5])
        outside = predictor.loss(encoder_out, torch.tensor([1, 2, 7, 20]))
        border = predictor.loss(encoder_out, torch.tensor([3, 3, 7, 7]))
        close(outside["length"].total, border["length"].total)
        assert (float(outside["length_clamped"].total), float(outside["length_clamped"].count)) == (3, 4)
        assert border["length_clamped"].value() == 0

    def test_accuracy(self) -> None:
        predictor, encoder_out = self.predictor(max_offset=2), self.encoded([5, 7, 9])
        best = predictor.predict(encoder_out)[0][:, 0]
        assert predictor.loss(encoder_out, best)["length_accuracy"].value() == 1
        wrong = best + torch.where(best - torch.tensor([5, 7, 9]) == 0, 1, -(best - torch.tensor([5, 7, 9])))
        assert predictor.loss(encoder_out, wrong)["length_accuracy"].value() == 0

    def test_top_lengths_are_ordered(self) -> None:
        predictor, encoder_out = self.predictor(max_offset=3), self.encoded([8, 5])
        lengths, log_probs = predictor.predict(encoder_out, beam=7)
        assert (log_probs[:, :-1] >= log_probs[:, 1:]).all()
        close(log_probs.exp().sum(1), torch.ones(2))
        assert lengths.sort(1).values.tolist() == [list(range(5, 12)), list(range(2, 9))]
        everything = predictor.log_probs(encoder_out)
        close(everything.gather(1, lengths - torch.tensor([[8], [5]]) + 3), log_probs)
        assert predictor.predict(encoder_out)[0].tolist() == lengths[:, :1].tolist()

    def test_at_least_one_token(self) -> None:
        predictor, encoder_out = self.predictor(max_offset=32), self.encoded([1, 2])
        assert int(predictor.predict(encoder_out, beam=65)[0].min()) == 1

    def test_detach_keeps_the_gradient_out_of_the_encoder(self) -> None:
        for detach in (False, True):
            encoder_out = self.encoded([3, 4])
            encoder_out.states.requires_grad_()
            predictor = self.predictor(max_offset=2, detach=detach)
            predictor.loss(encoder_out, torch.tensor([3, 4]))["length"].total.backward()
            assert (encoder_out.states.grad is None) == detach
            assert predictor.classes.weight.grad is not None

    def test_refusals_name_the_key(self) -> None:
        with pytest.raises(UserError, match=r"model\.length\.max_offset"):
            self.predictor(max_offset=0)
        with pytest.raises(UserError, match=r"model\.length\.weight"):
            self.predictor(weight=-1.0)

    @NORMS
    @pytest.mark.parametrize("rows", [[0, 0, 1, 2, 2, 2], [2, 0], [1, 2, 0], [1, 1, 1, 1]])
    @pytest.mark.parametrize("way", ["float32", "autocast"])
    def test_canvases_that_share_a_sentence_are_decoded_as_with_copies(
        self, norm: str, rows: list[int], way: str
    ) -> None:
        model = nat(norm=norm, encoder_layers=2)
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(1, 7, (len(rows),), generator=generator)
        inputs = model.blank(lengths)
        weight = torch.randn(int(lengths.sum()), VOCABULARY, generator=generator)

        def run(choose: Callable[[EncoderOutput], EncoderOutput]) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
                encoder_out = choose(model.encode(sources([2, 6, 4])))
                logits = model.decode(inputs, encoder_out).logits_at(inputs.is_canvas).float()
            parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
            return logits, torch.autograd.grad((logits * weight).sum(), parameters, allow_unused=True)

        index = torch.tensor(rows)
        logits, grads = run(lambda found: found.rows(index))
        expected, expected_grads = run(lambda found: EncoderOutput(found.states[index], found.is_pad[index]))

        def atol(*found: Tensor | None) -> float:
            """bf16 has 8 bits, of the largest number."""
            largest = max(float(one.detach().abs().max()) for one in found if one is not None)
            return 0.05 * largest if way == "autocast" else 1e-5

        close(logits, expected, atol(expected))
        assert sum(grad is not None for grad in grads) > 30
        for grad, wanted in zip(grads, expected_grads, strict=True):
            assert (grad is None) == (wanted is None)
            if grad is not None:
                close(grad, wanted, atol(*expected_grads))


class TestEncoderOutput:
    @staticmethod
    def example() -> EncoderOutput:
        src_tokens = sources([2, 6, 4])
        return nat().encode(src_tokens)

    @pytest.mark.parametrize("first", [[0, 0, 1, 2, 2], [2, 0], [1, 1, 1], [2, 1, 0]])
    @pytest.mark.parametrize("second", [[1, 0, 1, 1, 0, 0, 1], [1], [0, 1]])
    def test_rows_of_rows_are_those_of_the_sentences(self, first: list[int], second: list[int]) -> None:
        whole = self.example()
        index = torch.tensor(first)[torch.tensor(second)]
        found = whole.rows(torch.tensor(first)).rows(torch.tensor(second))
        assert torch.equal(found.states, whole.states[index])
        assert torch.equal(found.is_pad, whole.is_pad[index])
        assert whole.source is not None
        assert found.source is not None
        assert torch.equal(found.source.words, whole.source.words[index])
        assert torch.equal(found.source.is_content, whole.source.is_content[index])

    def test_many_rows_of_a_sentence_copy_no_states_and_few_keep_no_others(self) -> None:
        whole = self.example()
        many = whole.rows(torch.tensor([0, 0, 1, 2, 2, 2]))
        assert many.sentence_states is whole.sentence_states
        few = many.rows(torch.tensor([5, 0]))
        assert few.row is None
        assert few.sentence_states.shape[0] == 2

    def test_keys_and_values_are_those_of_the_rows(self) -> None:
        whole = self.example()
        assert whole.keys_values is not None
        few = whole.rows(torch.tensor([2, 0]))
        assert few.keys_values is not None
        for own, rows in zip(whole.keys_values, few.keys_values, strict=True):
            assert torch.equal(rows, own[:, [2, 0]])
        assert whole.rows(torch.tensor([0, 0, 1, 2])).keys_values is whole.keys_values
        moved = whole.to("cpu")
        assert isinstance(moved, EncoderOutput)
        assert moved.keys_values is not None

    def test_decoding_without_keys_and_values_computes_them(self) -> None:
        model, src_tokens = nat(), sources([2, 6, 4])
        whole = model.encode(src_tokens)
        bare = EncoderOutput(whole.states, whole.is_pad)
        blank = model.blank(torch.tensor([3, 5, 1]))
        close(model.decode(blank, bare).features, model.decode(blank, whole).features)
