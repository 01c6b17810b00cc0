"""Walk nests of mappings, lists and tuples that hold tensors: batches and optimisers' states."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["clone_nested", "to_device"]


def to_device(item: Any, device: torch.device) -> Any:
    """Copy tensors of a nest to ``device``; mappings (``BatchEncoding`` too) become dicts.

    To a GPU through pinned memory: out of any other the driver copies by itself piece by piece, and
    the host waits behind all that the device still has to do.
    """
    if isinstance(item, Tensor):
        if device.type == "cuda" and item.device.type == "cpu":
            item = item.pin_memory()
        return item.to(device, non_blocking=True)
    if isinstance(item, Mapping):
        return {key: to_device(value, device) for key, value in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):  # a named tuple keeps its names
        return type(item)(*(to_device(value, device) for value in item))
    if isinstance(item, (list, tuple)):
        return tuple(to_device(value, device) for value in item)
    return item


def clone_nested(item: Any) -> Any:
    """A copy of a nest of dicts, lists and tuples whose tensors and arrays are copied too."""
    if isinstance(item, Tensor):
        return item.detach().clone()
    if isinstance(item, np.ndarray):
        return item.copy()
    if isinstance(item, dict):
        copied = copy.copy(item)  # of its kind: a scheduler's state may hold a Counter
        for key, value in item.items():
            copied[key] = clone_nested(value)
        return copied
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(clone_nested(value) for value in item))
    if isinstance(item, (list, tuple)):
        return type(item)(clone_nested(value) for value in item)
    return item
