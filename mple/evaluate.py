"""The second door: makes an evaluation and a decoding of a configuration, and keeps what was measured."""

import shlex
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from mple.checks import UserError
from mple.evaluation.finished import Finished
from mple.files import write_json
from mple.launch import console
from mple.run import key_of, provenance
from mple.settings import check_arguments


def evaluate(cfg: DictConfig, overrides: list[str]) -> dict[str, float]:
    """Measure, show, and write `RUN/evaluations/<estimator>-<key>.json`; the key is of the settings, and of
    the content of what only a `path` names."""
    check_arguments(OmegaConf.to_container(cfg, resolve=True))
    evaluation = instantiate(cfg.estimator, _convert_="all")
    decoding = instantiate(cfg.decoding, _convert_="all") if cfg.get("decoding") else None
    if decoding is not None and not evaluation.decodes:
        name = cfg.estimator["_target_"].split(".")[-2]
        raise UserError(f"decoding must not be given with estimator={name}, on which it has no effect")
    run = Finished.open(cfg.run, cfg.device, root=cfg.data.root)
    if decoding is not None:
        run.decode_with(decoding)
    found = evaluation(run)
    settings: dict[str, Any] = {"estimator": OmegaConf.to_container(cfg.estimator, resolve=True)}
    if "beta" in settings["estimator"] and settings["estimator"]["beta"] is None:
        settings["estimator"]["beta"] = run.beta  # the data set's: the report names the number
    if decoding is not None:
        settings["decoding"] = OmegaConf.to_container(cfg.decoding, resolve=True)
    if (inputs := getattr(getattr(evaluation, "references", None), "inputs", None)) is not None:
        settings["inputs"] = inputs()
    name = settings["estimator"]["_target_"].split(".")[-2]
    command = shlex.join(["python", "evaluate.py", *overrides])
    report = {"run": str(run.folder), **provenance(command), "settings": settings, "metrics": found}
    report |= {"notes": run.notes} if run.notes else {}
    path = run.folder / "evaluations" / f"{name}-{key_of(settings)}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, report)
    if not getattr(evaluation, "is_shown", False):
        show(f"{name}: {run.name}", found)
    console.print(f"in {path}")
    return found


def show(title: str, found: dict[str, float]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in found.items():
        table.add_row(key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}")
    console.print(table)
