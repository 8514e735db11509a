"""Draws are uniform, belong to their sentence, and touch no generator."""

import itertools

import pytest
import torch
from scipy import stats

from mple.randomness import Draws, mix, mix_numbers

WORD = 2**64 - 1


def splitmix64(x: int) -> int:
    """SplitMix64's output function with Python's whole numbers."""
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def test_mix_is_splitmix64() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the generator's published first numbers
    assert splitmix64(1234567) == 6457827717110365317
    words = [0, 1, 1234567, -1, 2**63 - 1, -(2**63), 2**40 + 7, -12345678901234567]
    assert [word & WORD for word in mix(torch.tensor(words)).tolist()] == [
        splitmix64(w & WORD) for w in words
    ]


def test_mix_is_a_bijection() -> None:
    """Each of its three steps can be undone, so mixing loses nothing: undo it on a sample."""

    def unshift(x: int, bits: int) -> int:
        found = x
        for _ in range(64 // bits + 1):
            found = x ^ (found >> bits)
        return found

    words = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(0))
    for word, mixed in zip(words.tolist(), mix(words).tolist(), strict=True):
        x = unshift(mixed & WORD, 31)
        x = unshift((x * pow(0x94D049BB133111EB, -1, 2**64)) & WORD, 27)
        x = unshift((x * pow(0xBF58476D1CE4E5B9, -1, 2**64)) & WORD, 30)
        assert (x - 0x9E3779B97F4A7C15) & WORD == word & WORD
    assert len(mix(torch.arange(200_000)).unique()) == 200_000


def test_one_bit_changes_half_of_the_bits() -> None:
    words = torch.arange(500)
    for bit in range(0, 63, 7):
        changed = mix(words) ^ mix(words ^ (1 << bit))
        share = sum((word & WORD).bit_count() for word in changed.tolist()) / (64 * 500)
        assert abs(share - 0.5) < 0.02


def test_mix_numbers() -> None:
    seeds = {mix_numbers(*numbers) for numbers in itertools.product(range(-2, 8), repeat=3)}
    assert len(seeds) == 10**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_numbers(1, 2) != mix_numbers(2, 1)
    torch.Generator().manual_seed(mix_numbers(2**70, -(2**70)))  # any whole number will do


@pytest.mark.parametrize("step", [-1, 0, 123456])
def test_uniform(step: int) -> None:
    draws = Draws(seed=1, step=step).uniform("glancing", torch.arange(400), 50)
    assert draws.dtype == torch.float64
    assert draws.shape == (400, 50)
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    assert stats.kstest(draws.flatten().numpy(), "uniform").pvalue > 1e-3
    columns = torch.corrcoef(draws.T) - torch.eye(50)
    rows = torch.corrcoef(draws) - torch.eye(400)
    assert float(columns.abs().max()) < 5 / 400**0.5
    assert float(rows.abs().max()) < 5 / 50**0.5
    assert len(draws.unique()) == draws.numel()


def test_uniform_over_the_steps_of_one_position() -> None:
    ids = torch.tensor([7])
    draws = [float(Draws(1, step).uniform("glancing", ids, 1)) for step in range(2000)]
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(draws[:-1], draws[1:]).statistic) < 0.1


def test_a_sentence_has_its_draws_in_any_batch() -> None:
    draws = Draws(seed=3, step=10)
    ids = torch.randperm(10**6, generator=torch.Generator().manual_seed(0))[:50]
    together = draws.uniform("glancing", ids, 12)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draws.uniform("glancing", ids[order], 12), together[order])
    assert torch.equal(draws.uniform("glancing", ids[17:18], 12), together[17:18])
    assert torch.equal(draws.uniform("glancing", ids, 30)[:, :12], together)  # and on any wider canvas
    assert torch.equal(Draws(seed=3, step=10).uniform("glancing", ids, 12), together)


def test_every_part_of_the_name_matters() -> None:
    ids = torch.arange(20)
    base = Draws(1, 5).uniform("glancing", ids, 8)
    for other in (
        Draws(2, 5).uniform("glancing", ids, 8),
        Draws(1, 6).uniform("glancing", ids, 8),
        Draws(5, 1).uniform("glancing", ids, 8),
        Draws(1, 5).uniform("masking", ids, 8),
        Draws(1, 5).uniform("glancing", ids + 1000, 8),
    ):
        assert not (other.unsqueeze(-1) == base.flatten()).any()
    assert len(base.unique()) == base.numel()


def test_no_generator_is_touched() -> None:
    before = torch.get_rng_state()
    Draws(1, 2).uniform("glancing", torch.arange(5), 6)
    mix_numbers(1, 2, 3)
    assert torch.equal(torch.get_rng_state(), before)
