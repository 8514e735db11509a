"""The second door: makes an evaluation and a decoding of a configuration, and keeps what was measured."""

import shlex
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from mple import checks
from mple.checks import UserError
from mple.evaluation.finished import Finished
from mple.files import write_json
from mple.launch import console
from mple.run import key_of, provenance
from mple.settings import build, check_arguments, decoding_of, described, resolved


def evaluate(cfg: DictConfig, overrides: list[str]) -> dict[str, float]:
    """Measure, show, and write `RUN/evaluations/<estimator>-<key>.json`; the key is of the settings, and of
    the content of what only a `path` names."""
    evaluation = evaluation_of(cfg)
    asked = cfg.get("decoding") is not None
    if asked and not evaluation.decodes:
        name = cfg.estimator["_target_"].split(".")[-2]
        raise UserError(f"decoding must not be given with estimator={name}, on which it has no effect")
    run = Finished.open(cfg.run, cfg.device, root=cfg.data.root)
    decoding = decoding_of(cfg, run.job.plain["decoding"]) if asked else None
    if decoding is not None:
        run.decode_with(build(OmegaConf.create({"decoding": decoding}), "decoding"))
    found = evaluation(run)
    settings: dict[str, Any] = {"estimator": OmegaConf.to_container(cfg.estimator, resolve=True)}
    if "beta" in settings["estimator"] and settings["estimator"]["beta"] is None:
        settings["estimator"]["beta"] = run.beta  # the data set's: the report names the number
    if decoding is not None:
        settings["decoding"] = decoding
    if (inputs := getattr(getattr(evaluation, "references", None), "inputs", None)) is not None:
        settings["inputs"] = inputs()
    name = settings["estimator"]["_target_"].split(".")[-2]
    command = shlex.join(["python", "evaluate.py", *overrides])
    report = {"run": str(run.folder), **provenance(command), "settings": settings, "metrics": found}
    report |= {"notes": run.notes} if run.notes else {}
    if not getattr(evaluation, "is_shown", False):
        show(f"{name}: {run.name}", found)
    path = run.folder / "evaluations" / f"{name}-{key_of(settings)}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, report)
    except OSError as error:
        raise UserError(
            f"what was measured could not be kept: {path} cannot be written ({error.strerror})"
        ) from error
    console.print(f"in {path}")
    return found


def evaluation_of(cfg: DictConfig) -> Any:
    """The evaluation that a configuration describes.

    Raises:
        UserError: a setting of it, or of the decoding, is of a wrong type or out of range.
    """
    described(cfg, "estimator")
    checks.root(resolved(cfg)["data"])
    check_arguments(cfg)
    if cfg.get("decoding") is not None and "_target_" in cfg.decoding:
        build(cfg, "decoding")  # what is wrong with it is told before the run is opened
    return build(cfg, "estimator")


def show(title: str, found: dict[str, float]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in found.items():
        table.add_row(key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}")
    console.print(table)
