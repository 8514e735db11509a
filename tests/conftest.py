"""Shared by all tests: no network, one thread, the same result on every machine and in any order."""

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.browser import browser  # a fixture, for all tests

__all__ = ["browser"]


@pytest.fixture(autouse=True)
def hydra_is_left_as_found() -> Iterator[None]:
    """The state that Hydra keeps of a command does not reach the next test."""
    yield
    GlobalHydra.instance().clear()
