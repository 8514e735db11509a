"""Every proxy target with every proxy input, before a model that prefers bos, eos and pad to any word: none
of them is ever aligned, masked, glanced or counted, and `<unk>` in T is a token like any other."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mple.model.nat import NAT
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy import Proxy
from mple.proxy.input_first import InputFirst
from mple.proxy.target_first import TargetFirst
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.distance import DISTANCES
from mple.proxy_input.fixed_mask import FixedMask
from mple.proxy_input.glancing import CHOICES, Glancing
from mple.proxy_input.uniform_mask import UniformMask
from mple.proxy_target import AlignedTarget, ProxyTarget
from mple.proxy_target.axe import AXE, VARIANTS
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.kd import KD
from mple.proxy_target.oaxe import OaXE
from mple.proxy_target.raw import Raw
from mple.types import BLANK, BOS, EOS, MASK, PAD, UNK, Batch, DecoderInput, DecoderOutput, EncoderOutput
from tests.fakes import CONTENT, VOCABULARY, nat, output_of, random_batch, snapshot_of

TEXTS: dict[str, ProxyTarget] = {
    "raw": Raw(),
    "kd": KD("base"),
    "dynamic_kd": DynamicKD({"base": 1.0, "raw": 2.0}, 0.02),
}
TARGETS: dict[str, ProxyTarget] = TEXTS | {
    f"{name} on {text}": target
    for text, reference in TEXTS.items()
    for name, target in {
        **{f"axe {variant}": AXE(reference, 0.5, variant) for variant in VARIANTS},
        "oaxe": OaXE(reference),
        "oaxe truncated": OaXE(reference, 60, "nats"),
    }.items()
}
INPUTS: dict[str, ProxyInput] = {
    "blank": Blank(),
    "uniform_mask": UniformMask(),
    "fixed_mask": FixedMask(0.4),
    **{
        f"glancing {distance} {choice}": Glancing(0.5, 0.5, distance=distance, choice=choice)
        for distance, choice in itertools.product(DISTANCES, CHOICES)
    },
}
BATCH = random_batch([4, 2, 6], [5, 2, 7], [[3, 5], [6, 2], [1, 7]], names=("base", "raw"))
SPECIAL = (PAD, BOS, EOS, MASK)


def saying(logits: Tensor) -> NAT:
    """A model that says the first positions of `logits` (L, V) of every canvas, and goes on beyond it."""
    model = nat()

    def decode(
        inputs: DecoderInput, encoder_out: EncoderOutput, reads: Tensor | None = None
    ) -> DecoderOutput:
        rows, width = inputs.tokens.shape
        return output_of(logits[:width].expand(rows, width, -1).clone().requires_grad_())

    model.decode = decode  # type: ignore[method-assign]
    return model


def random_logits(seed: int = 0) -> Tensor:
    return 2 * torch.randn(12, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def adversary(seed: int = 0) -> NAT:
    """At every position, pad's beyond the canvas too, a special symbol is far likelier than any word."""
    logits = random_logits(seed)
    for position in range(len(logits)):
        logits[position, SPECIAL[position % len(SPECIAL)]] += 40
    return saying(logits)


def pairs() -> list[Proxy]:
    found: list[Proxy] = [TargetFirst(t, i) for t, i in itertools.product(TARGETS.values(), INPUTS.values())]
    aligned = [target for target in TARGETS.values() if isinstance(target, AlignedTarget)]
    return found + [InputFirst(t, i) for t, i in itertools.product(aligned, INPUTS.values())]


def test_the_adversary_prefers_specials() -> None:
    look = snapshot_of(adversary(), BATCH)
    assert set(look.predictions[BATCH.tgt_tokens != PAD].tolist()) == set(SPECIAL)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(pairs()),
    st.lists(st.tuples(*[st.integers(1, 8)] * 3), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_specials_are_never_aligned_masked_or_glanced(
    proxy: Proxy, lengths: list[tuple[int, int, int]], seed: int
) -> None:
    """Of sources, references and a teacher's candidates of any lengths."""
    src, tgt, base = zip(*lengths, strict=True)
    candidates = [list(row) for row in zip(base, tgt, strict=True)]
    check(proxy, random_batch(src, tgt, candidates, ("base", "raw"), seed), seed)


def test_nor_by_any_pair() -> None:
    for proxy in pairs():
        check(proxy, BATCH, 0)


def check(proxy: Proxy, batch: Batch, seed: int) -> None:
    target, inputs, seen = proxy(batch, snapshot_of(adversary(seed), batch))
    counts, text = target.counts, target.reference
    lengths = (text != PAD).sum(1)
    assert torch.equal(target.lengths, lengths), proxy
    assert (counts == (torch.arange(counts.shape[1]) < lengths.unsqueeze(1))).all(), proxy
    assert (target.tokens[~counts] == PAD).all(), proxy
    allowed = text.unsqueeze(1) == target.tokens.unsqueeze(2)  # (B, L, T): which word of R each is
    is_said = (allowed & (text != PAD).unsqueeze(1)).any(2) | ((target.tokens == BLANK) & proxy.says_blank)
    assert is_said[counts].all(), proxy
    if target.penalty is not None:
        due = target.penalty.weights > 0
        assert (due <= (text != PAD)[:, : due.shape[1]]).all(), proxy
        assert (target.penalty.tokens[due] >= CONTENT).all(), proxy
        assert counts.gather(1, target.penalty.positions)[due].all(), proxy

    assert not (inputs.revealed & ~counts).any(), proxy
    assert (inputs.tokens[counts & ~inputs.revealed] == MASK).all(), proxy
    assert (inputs.tokens[~counts] == PAD).all(), proxy
    shown = inputs.tokens[inputs.revealed]
    assert torch.equal(shown, target.tokens[inputs.revealed]), proxy
    for name in set(inputs.log) & set(DISTANCES):  # nothing is right, and bos or eos are not beside it
        assert inputs.log[name].value() <= 1, proxy
        if name == "hamming":
            assert inputs.revealed.sum(1).tolist() == (lengths // 2).tolist(), proxy
    loss = CrossEntropy(0.0)(seen.decode(inputs), target, inputs)
    assert float(loss["nats"].count) == int((counts & ~inputs.revealed).sum()), proxy
    assert float(loss["nll"].count) == int(lengths.sum()), proxy


def swapped(tokens: Tensor, word: int) -> Tensor:
    return torch.where(tokens == word, UNK, torch.where(tokens == UNK, word, tokens))


@pytest.mark.parametrize("name", INPUTS)
def test_unk_in_the_target_is_a_token_like_any_other(name: str) -> None:
    """With a word and `<unk>` exchanged, in the text and in what the model says, Z is the same."""
    revealed = is_shown = 0
    for seed in range(6):
        batch = random_batch([4, 2, 6, 3], [5, 3, 9, 8], seed=seed)
        word, logits = int(batch.tgt_tokens[2, 0]), random_logits(seed)
        columns = swapped(torch.arange(VOCABULARY), word)
        other: Batch = dataclasses.replace(batch, tgt_tokens=swapped(batch.tgt_tokens, word))
        assert (other.tgt_tokens == UNK).any()
        found = []
        for one, said in ((batch, logits), (other, logits[:, columns])):
            look = snapshot_of(saying(said), one, step=seed)
            found.append(INPUTS[name](one, Raw()(one, look), look))
        assert torch.equal(found[0].revealed, found[1].revealed)
        assert torch.equal(swapped(found[0].tokens, word), found[1].tokens)
        for key, value in found[0].log.items():
            assert value.value() == pytest.approx(found[1].log[key].value())
        revealed += int(found[1].revealed.sum())
        is_shown += int((found[1].revealed & (other.tgt_tokens == UNK)).sum())
    assert (revealed > 0) == (is_shown > 0) == (name != "blank")


@pytest.mark.parametrize("name", [name for name in INPUTS if name.startswith("glancing")])
def test_an_unk_that_is_said_where_t_has_one_is_right(name: str) -> None:
    batch = random_batch([4], [6])
    batch = dataclasses.replace(batch, tgt_tokens=torch.full((1, 6), UNK))
    logits = torch.zeros(12, VOCABULARY)
    logits[:, UNK] = 5
    look = snapshot_of(saying(logits), batch)
    assert not INPUTS[name](batch, Raw()(batch, look), look).revealed.any()
    logits[:, CONTENT] = 9
    look = snapshot_of(saying(logits), batch)
    assert int(INPUTS[name](batch, Raw()(batch, look), look).revealed.sum()) == 3
