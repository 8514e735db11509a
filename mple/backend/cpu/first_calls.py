"""The first call of an elementwise function, made by one thread.

PyTorch on a CPU leaves exp, log and their like to oneMKL, from several threads at once, and oneMKL before
2025.0 (PyTorch 2.13 has 2024.2) chooses a function's code when it is first called, without a lock. Where that
first call comes from two threads, one of them may compute its share with less exact code; in one process of
fifteen it did, and two runs of one seed differed from the first update on
(https://github.com/pytorch/pytorch/issues/188792; experiments/LOG.md).
"""

import torch

FUNCTIONS = (torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt)
"""Those of oneMKL that the project calls."""


def make_first_calls() -> None:
    """Calls each once for both types, with one element, which is never shared between threads."""
    for dtype in (torch.float32, torch.float64):
        for function in FUNCTIONS:
            function(torch.ones(1, dtype=dtype))
