"""Make a finished run a folder to give away.

    python -m mple.export run=outputs/glat_dynkd/multi30k_de-en to=my_model
    python -m mple.export run=RUN to=my_model force=true     # take the place of whatever is there
    python -m mple.export run=RUN to=my_model onnx=false     # without the graphs for ONNX

`to` then holds model.safetensors, config.yaml, vocabulary/, metrics.json, export.json, the model card
README.md and, of a NAT, encoder.onnx and decoder.onnx. `python translate.py run=my_model` translates with it.
"""

import contextlib
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mple import checks, onnx_graphs
from mple.checks import UserError
from mple.command import guarded, key_values
from mple.files import EXPORT_MARK, checksums, disk_may_fill, read_json, write_json, write_yaml
from mple.foreign import copy_folder
from mple.model.nat import NAT
from mple.model_card import model_card, without_places
from mple.trained import CONFIG, EXPORTED_WEIGHTS, METRICS, VOCABULARY, Trained, load

_FORMAT = 1
_OF_THE_MACHINE = ("outputs", "logger", "trainer", "hydra", "start")
_PLACES = ("root", "path")


def export(run: str | Path, to: str | Path, force: bool = False, onnx: bool = True) -> list[str]:
    """Write the export of `run` to the folder `to`: all of it, or nothing. Returns what there is to say.

    An earlier export of the same run is replaced. With `force` anything else is too; what is no export is not
    deleted but moved aside, to `to` with `.before` appended.

    Raises:
        UserError: `run` is not finished, its vocabulary holds a link, or `to` something that may not be
            replaced.
    """
    trained, to = load(run), Path(to).absolute()
    metrics = trained.metrics
    if metrics is None:
        raise UserError(
            f"run must be finished, for the model card says how good it is; {trained.folder} has no {METRICS}"
        )
    with _results(trained.folder / METRICS):
        identity = {key: metrics[key] for key in ("experiment", "data", "key", "seed")}
    _check_target(to, identity, force)
    notes: list[str] = []
    with disk_may_fill(to), checks.writes("to", to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as temporary:
            made = Path(temporary) / "new"
            made.mkdir()
            _write(trained, metrics, identity, made, onnx, notes)
            _put(made, to, Path(temporary) / "old", notes)
    return notes


def _write(
    trained: Trained,
    metrics: dict[str, Any],
    identity: dict[str, Any],
    to: Path,
    onnx: bool,
    notes: list[str],
) -> None:
    weights = distinct(trained.model)
    safetensors.torch.save_file(weights, to / EXPORTED_WEIGHTS, metadata={"format": "pt"})
    write_yaml(to / CONFIG, OmegaConf.to_yaml(OmegaConf.create(_public(trained.config))))
    # safetensors writes for oneself alone.
    (to / EXPORTED_WEIGHTS).chmod(stat.S_IMODE((to / CONFIG).stat().st_mode))
    copy_folder(trained.folder / VOCABULARY, to / VOCABULARY)
    with _results(trained.folder / METRICS):
        metrics = metrics | {"command": without_places(metrics["command"])}
    write_json(to / METRICS, metrics)
    graphs = onnx and _write_graphs(trained, to, notes)
    with _results(trained.folder / METRICS):
        card = model_card(trained, metrics, graphs)
    (to / "README.md").write_text(card, encoding="utf-8")
    sums = checksums(to)
    del sums["README.md"]  # the model card is for its reader to complete
    digest = sums[EXPORTED_WEIGHTS]["sha256"]
    mark = {"format": _FORMAT, "run": identity, "weights_sha256": digest, "files": sums}
    mark["vocabularies"] = {
        "src": trained.src_vocabulary.fingerprint,
        "tgt": trained.tgt_vocabulary.fingerprint,
    }
    write_json(to / EXPORT_MARK, mark)


@contextlib.contextmanager
def _results(path: Path) -> Iterator[None]:
    """Turns what the results in `path` lack, or have of another kind, into a `UserError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} must hold the results of a run; it does not: {error!r}") from error


def _write_graphs(trained: Trained, to: Path, notes: list[str]) -> bool:
    if not isinstance(trained.model, NAT):
        notes.append("no ONNX graphs: they are made of non-autoregressive models only")
        return False
    try:
        onnx_graphs.write(trained.model, to)
    except ImportError as error:
        notes.append(f"no ONNX graphs: {error.name} is not installed (pip install onnx onnxruntime)")
    except UserError as error:
        notes.append(f"no ONNX graphs: {error}")
    else:
        return True
    for name in (onnx_graphs.ENCODER, onnx_graphs.DECODER):
        (to / name).unlink(missing_ok=True)
    return False


def distinct(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights; one that two of its parts share under the first of its names only."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        found.setdefault(value.data_ptr(), (name, value.contiguous()))
    return dict(found.values())


def _public(value: Any, is_top: bool = True) -> Any:
    """A configuration without what only concerned the machine that it ran on."""
    if not isinstance(value, Mapping):
        return value
    dropped = _OF_THE_MACHINE if is_top else ()
    return {
        key: None if key in _PLACES and isinstance(part, str) else _public(part, is_top=False)
        for key, part in value.items()
        if key not in dropped
    }


# --- the target ----------------------------------------------------------------------------------------


def _mark(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / EXPORT_MARK, "run")
    except UserError:
        return None


def _is_empty(to: Path) -> bool:
    return not to.exists() or (to.is_dir() and not any(to.iterdir()))


def _check_target(to: Path, identity: dict[str, Any], force: bool) -> None:
    if _is_empty(to) or force:
        return
    mark = _mark(to)
    if mark is None:
        raise UserError(
            f"to must be a new or an empty folder, or an export of the same run; {to} holds other things"
        )
    if mark["run"] != identity:
        other = "/".join(str(value) for value in mark["run"].values())
        raise UserError(
            f"to must be a new or an empty folder, or an export of the same run; {to} holds {other} "
            "(force=true replaces it)"
        )


def _put(made: Path, to: Path, aside: Path, notes: list[str]) -> None:
    """Rename `made` to `to`; what was there goes to `aside`, which is deleted later, if it was an export."""
    if to.exists():
        if not _is_empty(to) and _mark(to) is None:
            aside = _free(to)
            notes.append(f"what was in {to} is in {aside}")
        to.rename(aside)
    try:
        made.rename(to)
    except OSError:
        if aside.exists():
            aside.rename(to)
        raise


def _free(to: Path) -> Path:
    """`to.before`, or with a number behind it."""
    number, found = 1, to.with_name(f"{to.name}.before")
    while found.exists():
        number += 1
        found = to.with_name(f"{to.name}.before{number}")
    return found


# --- the command ---------------------------------------------------------------------------------------


@guarded
def main(arguments: list[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    run, to, force, onnx = options(arguments)
    for note in export(run, to, force, onnx):
        print(note)
    print(f"in {to}")


def options(arguments: list[str]) -> tuple[str, str, bool, bool]:
    """run, to, force and onnx of `key=value` arguments.

    Raises:
        UserError: an unknown key, a missing one, or a value of another type.
    """
    given, _ = key_values(arguments, {"run": None, "to": None, "force": False, "onnx": True})
    for key in ("run", "to"):
        if not given[key]:
            raise UserError(f"{key} must name a folder ({key}=FOLDER); got none")
    return given["run"], given["to"], given["force"], given["onnx"]


if __name__ == "__main__":
    main(sys.argv[1:])
