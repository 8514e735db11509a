"""Random numbers that belong to a sentence, not to a batch.

    draws = Draws(seed=1, step=200)
    u = draws.uniform("glancing", batch.ids, length)        # (B, length), each in [0, 1)

A draw is a hash of (seed, step, purpose, line id, position). So a sentence gets the same Z in whatever batch,
on however many processes and on whatever device it is, and a resumed run draws what the interrupted one
would have drawn, with no generator state to save.

Source: the counter-based idea is Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3"; the
mixing function is SplitMix64's (Steele et al., 2014).
"""

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(x: int) -> int:
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x


_GOLDEN, _FIRST, _SECOND = (_signed(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A bijection of 64-bit words whose every output bit depends on every input bit."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def mix_numbers(*numbers: int) -> int:
    """One seed (63 bits) from several numbers, for `torch.manual_seed`."""
    state = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        state = mix(state ^ torch.tensor(_signed(number)))
    return int(state) & (2**63 - 1)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one update. `step` counts updates; validation always draws at step -1."""

    seed: int
    step: int

    def uniform(self, purpose: str, ids: Int[Tensor, "B"], length: int) -> Float[Tensor, "B {length}"]:
        """Independent uniform numbers in [0, 1), 53 random bits each (float64)."""
        key = mix_numbers(self.seed, self.step, zlib.crc32(purpose.encode()))
        rows = mix(ids ^ key).unsqueeze(1)  # (B, 1)
        columns = torch.arange(length, device=ids.device)
        return _shift(mix(rows ^ mix(columns)), 11).double() * 2.0**-53
