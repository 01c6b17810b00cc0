"""Keep the tensors of what a stage found in a file beside the journal, which is JSON."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from bilevel.checkpoint.state_file import load_state, save_state
from bilevel.errors import UserError

__all__ = ["load", "part", "put_back", "save"]

# Stands in the JSON for a tensor: {MARK: its name in the file}.
MARK = "$tensor"


def part(found: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split what a stage found into plain JSON data and its tensors.

    Args:
        found: a nest of dicts and lists with tensors anywhere in it.

    Returns:
        The nest with a mark where a tensor was, and the tensors by the names in the marks: detached
        copies on the CPU, so that they are the same whether they come from a file or not.
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            name = f"{len(tensors):05d}{where}"  # the number makes it unique
            tensors[name] = value.detach().cpu().clone()
            return {MARK: name}
        if isinstance(value, dict):
            return {key: plain(inner, f"{where}/{key}") for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner, f"{where}/{i}") for i, inner in enumerate(value)]
        return value

    return plain(found, ""), tensors


def put_back(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo :func:`part`.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(plain, dict):
        if plain.keys() == {MARK}:
            return tensors[plain[MARK]]
        return {key: put_back(inner, tensors) for key, inner in plain.items()}
    if isinstance(plain, list):
        return [put_back(inner, tensors) for inner in plain]
    return plain


def save(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors as one safetensors file, whole or not at all; returns its SHA-256.

    Raises:
        StorageError: the disk is full, or the folder not writable.
    """
    save_state(path, tensors)
    return _digest(path)


def load(path: Path, digest: str) -> dict[str, Tensor]:
    """Read what :func:`save` wrote.

    Raises:
        UserError: the file is missing, damaged, or not the one with this SHA-256.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing, which holds what a stage found; start the run afresh")
    tensors = load_state(path)
    if _digest(path) != digest or not isinstance(tensors, dict):
        raise UserError(
            f"{path} is damaged, or of another run: it is not what stages.json was written with; "
            "start the run afresh"
        )
    return tensors


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
