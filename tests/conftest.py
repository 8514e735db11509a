"""Shared by all tests: no network, one thread, the same result on every machine and in any order."""

import os
import zlib
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.browser import browser  # a fixture, for all tests

__all__ = ["browser"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tenth", type=int, help="run one tenth of the tests that are selected, 0 to 9")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of `--tenth`, by a hash of their names: every test is in one tenth and stays there."""
    if (tenth := config.getoption("--tenth")) is None:
        return
    kept = [item for item in items if zlib.crc32(item.nodeid.encode()) % 10 == tenth]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True)
def hydra_is_left_as_found() -> Iterator[None]:
    """The state that Hydra keeps of a command does not reach the next test."""
    yield
    GlobalHydra.instance().clear()
