"""Read which parameters a checkpoint has weights for, without reading the weights."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from bilevel.reading import json_object

__all__ = ["parameter_names"]

INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


def parameter_names(source: str) -> set[str] | None:
    """The names in a checkpoint; None where none can be seen, without a network or at all.

    Args:
        source: a folder, or a hub id, of which the files in the cache are looked at.
    """
    for name in (*INDEX[:1], SAFE, *INDEX[1:], PICKLED):
        path = _file(source, name)
        if path is None:
            continue
        if name in INDEX:
            return set(json_object(path).get("weight_map") or ())
        try:
            return _names(path)
        except (SafetensorError, UnpicklingError):  # whoever loaded the model has other files
            return None
    return None


def _names(path: Path) -> set[str]:
    if path.name == SAFE:
        with safe_open(str(path), "pt") as file:
            return set(file.keys())
    # files of old versions of torch are no archives, which alone can be mapped into memory
    mapped = zipfile.is_zipfile(path)
    return set(torch.load(path, map_location="meta", weights_only=True, mmap=mapped))


def _file(source: str, name: str) -> Path | None:
    if (folder := Path(source).expanduser()).is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        found = cached_file(
            source,
            name,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError):  # no name of a repository, as of a folder that is gone
        return None
    return None if found is None else Path(found)
