"""Several threads add up in a fixed order, so a gradient is the same every time.

Of an index whose entries repeat, `x[index]`, PyTorch adds up the gradient from all threads at once on a CPU:
what comes last is rounded last, and two runs of one seed part ways. A lookup (`functional.embedding`),
`index_select` and `gather` are added up in order.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch.utils._python_dispatch import TorchDispatchMode

from tests.runs import CONF, distil_at_random, text_job

VANILLA_INPUTS = sorted(path.stem for path in (CONF / "vanilla_input").glob("*.yaml"))
EVERY_PROXY = [
    ("+experiment=at",),
    ("+experiment=axe_cmlm",),
    ("+experiment=axe_tau1",),
    ("+experiment=oaxe_glat", "start=null"),
    ("+experiment=cmlm_fixed",),
    ("+experiment=glat_dynkd",),
]


class Unordered(TorchDispatchMode):
    """Notes the operators that add up in no fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "index_put" in str(func) and len(args) > 3 and args[3] and args[0].is_floating_point():
            self.found.append(f"{func} into {tuple(args[0].shape)}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("threads")


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    "overrides",
    [
        *EVERY_PROXY,
        *(("+experiment=glat_raw", f"vanilla_input={name}") for name in VANILLA_INPUTS),
    ],
    ids=" ".join,
)
def test_every_gradient_is_added_up_in_order(root: Path, overrides: tuple[str, ...]) -> None:
    made = text_job(root, *overrides)
    hydra.initialize_config_dir(str(CONF), version_base="1.3")  # teachers' jobs are composed too
    distil_at_random(made)
    distilled = {name: teacher.distilled_folder() for name, teacher in made.teachers().items()}
    data = made.data(1, made.candidates, distilled)
    data.setup()
    (batch, *_) = next(iter(data.train_dataloader()))
    learner = made.module(data).train()
    with Unordered() as seen:
        minimised, _ = learner.losses(batch)
        torch.stack([loss.total for loss in minimised.values()]).sum().backward()
    assert not seen.found


def test_what_is_looked_for_is_seen() -> None:
    x = torch.zeros(3, requires_grad=True)
    with Unordered() as seen:
        x[torch.tensor([0, 0, 1])].sum().backward()
    assert len(seen.found) == 1
