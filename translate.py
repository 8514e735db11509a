"""Translate lines of raw text with a finished run or an export of one.

    python translate.py run=outputs/glat_dynkd/multi30k_de-en < in.txt > out.txt
    python translate.py run=RUN decoding=length_parallel decoding.lengths.beam=5 n_best=5 < in.txt > out.jsonl
    python translate.py run=RUN                              # answers line by line what you type

One line out for each line in, soon after it came where the input is slow; what was read before Ctrl-C or
SIGTERM is still answered. `--help` lists the settings.
"""

import signal
import sys
from typing import Any, BinaryIO, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mple import checks
from mple.backend.cpu.memory import keep_memory
from mple.checks import UserError
from mple.command import begin, guarded
from mple.plain import one_line
from mple.settings import check_command, check_values, decoding_of
from mple.streams import needed
from mple.trained import Trained, device_of, load
from mple.translate import Report, Translator, answer, arriving


def translator(cfg: DictConfig) -> Translator:
    """The objects of a configuration."""
    if not isinstance(cfg.run, str):
        came = "none" if cfg.run is None else repr(cfg.run)
        raise UserError(
            f"run must be the folder of a finished run or of an export (run=outputs/...); got {came}"
        )
    own: dict[str, Any] = {
        name: cfg[name] for name in ("max_tokens", "max_length", "too_long", "n_best", "precision")
    }
    check_values(Translator, own)
    check_values(Translator.stream, {"bucket": cfg.bucket})
    trained = with_decoding(load(cfg.run), cfg)
    trained.to(device_of(cfg.device))
    return Translator(trained, **own)


def with_decoding(trained: Trained, cfg: DictConfig) -> Trained:
    """With the decoding that was asked for: a whole one, or some settings of the run's own."""
    if cfg.teacher is not None:
        checks.path("teacher", cfg.teacher)
    decoding = decoding_of(cfg, trained.config["decoding"])
    if decoding is None and cfg.teacher is None:
        return trained
    try:
        teacher = None if cfg.teacher is None else load(cfg.teacher)
    except UserError as error:
        raise UserError(f"teacher: {error}") from error
    return trained.with_decoding(decoding or trained.config["decoding"], teacher)


def translate(cfg: DictConfig, source: BinaryIO, output: TextIO, errors: TextIO) -> Report:
    """Line by line where a person types, else by buckets, with a bar where a person watches."""
    made, is_typed = translator(cfg), source.isatty()
    if is_typed:
        about = f"{made.trained.name}, {' to '.join(made.trained.languages)}; Ctrl-D ends"
        print(one_line(about), file=errors)
    bucket = 1 if is_typed else cfg.bucket
    lines = source if is_typed else arriving(source)
    return answer(made, lines, output, errors, bucket, shows=errors.isatty() and not is_typed)


@hydra.main(version_base="1.3", config_path="conf", config_name="translate")
@guarded
def main(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError("translate.py reads one text, so that -m (--multirun) has no meaning")
    check_command(cfg, also=("decoding",))
    needed("stdin", "the lines to translate")
    needed("stdout", "their translations")
    keep_memory()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # like Ctrl-C, an exception
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    translate(cfg, sys.stdin.buffer, sys.stdout, sys.stderr)


if __name__ == "__main__":
    begin(main, of_the_run=("decoding",))
