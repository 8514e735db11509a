"""How the process holds its memory."""

import contextlib
import ctypes


def keep_memory() -> None:
    """Let glibc keep large blocks that are freed: training and decoding on a CPU free and take the same
    buffers again and again, and each return to the kernel is paid for in page faults. Does nothing on another
    libc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own mapping
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not give back
