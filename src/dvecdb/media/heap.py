"""The heap of this process: what a large piece of work leaves behind in it can go back."""

from __future__ import annotations

import ctypes
from typing import Final

_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Let the C library return free memory to the system; not every one can. Takes milliseconds."""
    if _trim is not None:
        _trim(0)
