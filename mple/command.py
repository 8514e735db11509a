"""What all commands share: how they end."""

import contextlib
import functools
import os
import sys
from typing import Any

import hydra

from mple.checks import UserError


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
