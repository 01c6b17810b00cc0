"""Write a nested state as one safetensors file, whole or not at all, and check it when reading.

The tree (dicts, lists, numbers) is JSON in the file's metadata, the tensors are its tensors, and a
SHA-256 in the metadata covers every other byte. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bilevel.checkpoint.disk import refusal, sync
from bilevel.errors import StorageError, UserError

__all__ = ["CheckpointDamaged", "flatten", "load_state", "save_state", "unflatten"]

_FORMAT = "bilevel-state-1"
_CHUNK = 2**22
# Where the checksum stands in the header while the checksum is computed. A string of the tree
# cannot look like it: its quotes are escaped.
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_BLANK = "0" * 64
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointDamaged(UserError):  # noqa: N818
    """The file is not what was written, or was never a checkpoint."""


def flatten(state: Any) -> tuple[dict[str, Tensor], str]:
    """Split a nest into its tensors (by name) and a JSON string with everything else.

    Dicts (with keys of any of the plain types), lists, tuples, tensors, NumPy arrays, int, float
    (also inf and nan), str, bool, None. Raises :class:`UserError` naming where anything else is.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, json.dumps(_encode(state, "", tensors), allow_nan=False)


def unflatten(tensors: dict[str, Tensor], text: str) -> Any:
    """Undo :func:`flatten`; tensors come without gradients, on the device they are given on."""
    return _decode(json.loads(text), tensors)


def save_state(path: str | os.PathLike[str], state: Any) -> None:
    """Write ``state`` to ``path``, which afterwards holds all of it or what it held before.

    Written aside in the same folder, forced to the disk, then renamed. Raises :class:`StorageError`
    when the disk is full or the folder not writable; the unfinished file is removed then.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tensors, tree = flatten(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                _write(file, tensors, tree)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync(path.parent)  # the rename itself survives a power cut
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {refusal(error) or error}; earlier checkpoints are untouched"
        ) from error


def load_state(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`save_state` wrote, tensors on the CPU.

    Raises :class:`CheckpointDamaged` if a byte differs or the file is of another kind, and
    :class:`UserError` if there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    _check(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata.get("format") != _FORMAT:
                raise CheckpointDamaged(
                    f"{path} is of format {metadata.get('format')!r}, this version reads {_FORMAT}"
                )
            # Copies: the file stays mapped otherwise, and may be deleted or replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointDamaged(f"{path} is not a safetensors file: {error}") from error
    try:
        return unflatten(tensors, metadata["tree"])
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise CheckpointDamaged(f"{path} does not hold what {_FORMAT} does: {error}") from error


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, np.generic):
        return _encode(value.item(), where, tensors)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, list):
        return [_encode(v, f"{where}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, f"{where}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, dict):
        pairs = [
            [_encode(k, f"key of {where}", {}), _encode(v, f"{where}.{k}", tensors)]
            for k, v in value.items()
        ]
        return {"dict": pairs}
    # The number makes names unique: keys may contain dots.
    name = f"{len(tensors):05d}{where}"
    if isinstance(value, Tensor) and value.dtype in _DTYPES and value.layout == torch.strided:
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        raw = np.frombuffer(value.tobytes(), dtype=np.uint8).copy()
        tensors[name] = torch.from_numpy(raw)
        return {"array": [name, value.dtype.str, list(value.shape)]}
    kind = f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UserError(
        f"cannot put {kind} into a checkpoint (at {where.lstrip('.') or 'the top'}): allowed are "
        "dicts, lists, tuples, dense real tensors and arrays, numbers, strings, booleans and None"
    )


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(v, tensors) for v in node]
    if not isinstance(node, dict):
        return node
    ((tag, content),) = node.items()
    if tag == "dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
    if tag == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    if tag == "float":
        return float(content)
    if tag == "tensor":
        return tensors[content]
    name, dtype, shape = content
    kind = np.dtype(dtype)
    if kind.kind not in "biufc":
        raise ValueError(f"an array of {dtype}")
    return tensors[name].numpy().view(kind).reshape(shape).copy()


def _write(file: BinaryIO, tensors: dict[str, Tensor], tree: str) -> None:
    """The safetensors format, tensor by tensor, so that no second copy of them all is needed."""
    # Widest elements first keeps every tensor aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    metadata = {"format": _FORMAT, "sha256": _BLANK, "tree": tree}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [offset, end],
        }
        offset = end
    blank = json.dumps(header, separators=(",", ":")).encode()
    blank += b" " * (-len(blank) % 8)
    length = len(blank).to_bytes(8, "little")
    digest = hashlib.sha256(length + blank)
    file.write(length + blank)
    for name in order:
        flat = tensors[name].cpu().contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().data
        digest.update(content)
        file.write(content)
    found = _CHECKSUM.search(blank)
    assert found is not None
    file.seek(8 + found.start(1))
    file.write(digest.hexdigest().encode())


def _check(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), size))
        found = _CHECKSUM.search(header)
        if found is None:
            raise CheckpointDamaged(f"{path} is damaged or not a checkpoint: it has no checksum")
        blank = header[: found.start(1)] + _BLANK.encode() + header[found.end(1) :]
        digest = hashlib.sha256(length + blank)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest().encode() != found.group(1):
        raise CheckpointDamaged(f"{path} is damaged: its content does not match its checksum")
