"""Give memory that is no longer used back to the system, before more is asked for."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch

__all__ = ["give_back"]


def give_back() -> None:
    """Collect circles of objects, and return what was freed.

    Arrow and the C library keep what was freed, such as the activations of a training, for later.
    Both can be asked to return it (the latter if it is glibc).
    """
    gc.collect()
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # which musl has not
        if trim is not None:
            trim(0)
