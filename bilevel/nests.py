"""Walk nests of mappings, lists and tuples that hold tensors: batches and optimisers' states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """A copy of a nest of dicts and lists whose tensors are cloned."""
    if isinstance(item, Tensor):
        return item.detach().clone()
    if isinstance(item, dict):
        return {key: clone_nested(value) for key, value in item.items()}
    if isinstance(item, list):
        return [clone_nested(value) for value in item]
    return item
