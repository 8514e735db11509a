"""Fresh processes with two threads compute the same from the first call on."""

import os
import subprocess
import sys

import pytest

FIRST_AGAINST_SECOND = """
import torch
import mple.backend
x = torch.randn(90_000)
first, second = x.exp(), x.exp()
assert torch.get_num_threads() == 2
print(int((first != second).sum()))
"""


@pytest.mark.slow
def test_a_process_is_not_different_from_another() -> None:
    """Without the calls one process of fifteen was, so all 60 would go well in one run of a hundred."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", FIRST_AGAINST_SECOND]
    for process in range(60):
        found = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
        assert found.stdout == "0\n", f"process {process}: so many elements of the first exp were other ones"
