"""Shared by all tests: no network, one thread, the same result on every machine."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.browser import browser  # a fixture, for all tests

__all__ = ["browser"]
