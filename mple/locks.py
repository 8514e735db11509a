"""A lock file: one process at a time.

with locked(folder / ".lock", "at_tiny"):
    ...                                   # what others wait for; or they find it finished
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mple.checks import UserError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path, what: str, waits: bool = True, is_needed: bool = True) -> Iterator[None]:
    """Holds the lock file `path`. While another process does, this one says so and waits.

    The kernel releases the lock when its holder dies, however it dies; the file goes with the holder. On a
    file system that has no locks no process waits. `is_needed`: then warn, since two processes at this work
    would disturb each other and not only do it twice.

    Raises:
        UserError: another process holds it, and this one is not to wait.
    """
    while True:
        with open(path, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                if not waits:
                    raise UserError(
                        f"{what} is being made by {holder}: start again when it is done"
                    ) from None
                log.info("waiting for %s, which makes %s", holder, what)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                if is_needed:
                    log.warning("%s has no file locks: let no other job make %s meanwhile", path.parent, what)
            # The file may have been deleted by its last holder while this process waited: then try again.
            if _inode(path) != os.fstat(file.fileno()).st_ino:
                continue
            try:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _inode(path: Path) -> int | None:
    """None where there is no such file: another process may delete it at any moment."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
