"""Look at the files of a model's folder before a library does, and say which is no good and why."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed
from bilevel.reading import json_object, plain_values

__all__ = ["TOKENIZER_FILES", "check_files"]

POINTER = b"version https://git-lfs"
# Weights as transformers looks for them; the first that is there is read.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER = "tokenizer.json"
# Read where there is no tokenizer.json.
VOCABULARIES = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
)
SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# All that a tokenizer may be saved in.
TOKENIZER_FILES = (
    TOKENIZER,
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)
# A vocabulary may have tens of megabytes, which the library reads once more.
PARSED = 1_000_000  # bytes


def check_files(folder: Path) -> None:
    """Check that a model's files are what their names say; no weights are read.

    Raises:
        UserError: a file is Git LFS' pointer to it, empty, cut short or no JSON object, or a part
            of the weights is missing.
    """
    for path in _read(folder):
        if not path.is_file():
            continue
        size = path.stat().st_size
        if not size:
            raise UserError(f"{path} is empty: copy or download the file again")
        with path.open("rb") as file:
            start = file.read(len(POINTER))
        if start == POINTER:
            raise UserError(
                f"{path} is not the file itself but a Git LFS pointer to it: run `git lfs pull` "
                "in that folder, or download the file"
            )
        if path.suffix == ".json" and size <= PARSED:
            _check_json(path)
        elif path.suffix == ".safetensors":
            _check_length(path, size)


def _read(folder: Path) -> Iterator[Path]:
    """The files that will be read, those of the weights last."""
    yield from (folder / name for name in SETTINGS)
    whole = (folder / TOKENIZER).is_file()
    yield from (folder / name for name in ((TOKENIZER,) if whole else VOCABULARIES))
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        return
    yield weights
    if weights.suffix == ".json":  # comes back when the file itself has been looked at
        yield from _parts(weights)


def _parts(index: Path) -> list[Path]:
    """The files that an index of weights names."""
    found = json_object(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index} has no 'weight_map', which says where each weight is")
    names = list(dict.fromkeys(map(str, found.values())))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index.parent} lacks {len(missing)} of the {len(names)} files of the model's "
            f"weights: {listed(missing[:3])}"
        )
    return [index.parent / name for name in names]


def _check_json(path: Path) -> None:
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no JSON: it is not in UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON: line {error.lineno}, {error.msg}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of lists in one another
        raise UserError(f"{path} is damaged, it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object, {{...}}, and not {str(found)[:40]!r}")
    plain_values(found, str(path))
    if path.name == TOKENIZER and not isinstance(found.get("model"), dict):
        raise UserError(f"{path} has no 'model', so it holds no tokenizer's vocabulary")


def _check_length(path: Path, size: int) -> None:
    """A safetensors file begins with its header's length and the header: where each tensor ends."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header = file.read(length) if length <= size - 8 else b""
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, AttributeError, TypeError, KeyError, IndexError, RecursionError):
        raise UserError(
            f"{path} is no safetensors file, or only a part of one: copy or download it again"
        ) from None
    if wanted != size:
        raise UserError(
            f"{path} has {size:,} bytes and should have {wanted:,}: copy or download it again"
        )
