"""Say where ranks.json and what goes with it are, and keep away from what others wrote there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bilevel.checkpoint.disk import check_writable
from bilevel.checkpoint.sums import summed
from bilevel.errors import UserError, listed
from bilevel.reading import json_object
from experiments.models.folder_files import TOKENIZER_FILES
from experiments.results.shape import check_ranks

__all__ = ["CONFIG", "FILE", "FOLDER", "PICTURE", "read", "refuse_others"]

FILE = "ranks.json"
FOLDER = "ranks"
CONFIG = "lora_config.json"
PICTURE = "frontier.png"
# All that the program writes below FOLDER.
ADAPTERS = ("adapter", "adapter_compact")
OF_AN_ADAPTER = (
    *("adapter_config.json", "adapter_model.safetensors", "labels.json", "README.md"),
    *("SHA256SUMS", *TOKENIZER_FILES),
)
TEMPLATES = "additional_chat_templates"  # a folder beside a tokenizer's files


def read(folder: Path) -> dict[str, Any] | None:
    """What ranks.json in a folder says, None if there is none.

    Raises:
        UserError: it is damaged, or another program's.
    """
    path = folder / FILE
    if not path.exists():
        return None
    values = json_object(path)
    check_ranks(values, str(path))
    return values


def refuse_others(out: Path) -> None:
    """Look into the folder that ranks are to be written into.

    Args:
        out: need not be there. What a cut before has left is no matter.

    Raises:
        UserError: it is a file, or ``ranks.json`` or ``ranks/`` in it are not this program's, or
            it cannot be written.
    """
    elsewhere = "move it away, or give another folder by out=DIR"
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file, and a folder is needed")
    check_writable(out, "out")
    try:
        read(out)
    except UserError as error:
        raise UserError(f"{error}; it would be overwritten: {elsewhere}") from error
    folder = out / FOLDER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is no folder, and ranks are to be written there: {elsewhere}")
    others = sorted(_others(folder)) if folder.is_dir() else []
    if others:
        more = ["..."] if len(others) > 3 else []
        raise UserError(
            f"{folder} holds what this program did not write ({listed([*others[:3], *more])}), and "
            f"a cut replaces the whole of it: {elsewhere}"
        )


def _others(folder: Path) -> set[str]:
    known = {CONFIG, PICTURE} | {f"{a}/{name}" for a in ADAPTERS for name in OF_AN_ADAPTER}
    known |= {f"{a}/{name}" for a in ADAPTERS for name in summed(folder / a)}
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or p.is_file()}
    found |= {f"{p.name}/" for p in folder.iterdir() if p.is_dir() and p.name not in ADAPTERS}
    links = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink()}
    others = {name for name in found if name not in known and not _aside(name)}
    return {name for name in others if name.split("/")[1:2] != [TEMPLATES]} | links


def _aside(name: str) -> bool:
    """Whether it is what a writer that was killed has left (``.NAME.PROCESS.tmp``)."""
    return name.startswith(".") and ".tmp" in name
