"""What all commands share: how they start and how they end."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

from mple.checks import UserError

INPUT_PREDICTOR_WORD = "+experiment=input_predictor"
"""The word of `train.py` that chooses a configuration of its own."""


def guarded(main: Any) -> Any:
    """A user's mistake is one line on stderr and exit status 2; a reader that has seen enough and Ctrl-C are
    no mistakes; anything else keeps its trace."""

    @functools.wraps(main)
    def run(*arguments: Any) -> Any:
        try:
            return main(*arguments)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except hydra.errors.HydraException as error:
            cause = error.__cause__ or error.__context__
            if not isinstance(cause, UserError):
                raise
            print(f"error: {cause}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:
            # What is still buffered has no reader: or Python would complain about it when it ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + 13)  # as if ended by SIGPIPE
        except KeyboardInterrupt:
            sys.exit(128 + 2)

    return run


def begin(main: Callable[[], Any]) -> None:
    """Run a command. A word of it that Hydra cannot use (an unknown choice or key) is one line on stderr,
    with what is accepted, and exit status 2; Hydra would print many. HYDRA_FULL_ERROR=1 shows the trace."""
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra ends the process itself
    try:
        main()
    except (ConfigCompositionException, MissingConfigException, OverrideParseException) as error:
        if wants_trace:
            raise
        print(f"error: {complaint(error)}", file=sys.stderr)
        sys.exit(2)


def complaint(error: Exception) -> str:
    """One sentence: what is accepted and what came."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group} must be one of {', '.join(sorted(error.options))}; got {name!r}"
    lines = [line.strip() for cause in (error, error.__cause__) for line in str(cause or "").splitlines()]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line and "full_key" not in line))
