"""Keep what the rows say in a JSON file and a table, written anew after every row."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["Report", "machine"]

PACKAGES = ("torch", "transformers", "peft", "betty-ml", "bitsandbytes", "flash-attn")


class Report:
    """All rows so far.

    Args:
        folder: of ``gpu.json`` and ``gpu.md``.
        about: machine and settings.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = dict(about)
        self.rows: list[dict[str, Any]] = []

    def add(self, part: str, line: Mapping[str, Any]) -> None:
        """Take a row, write everything, and print the row."""
        row = {"part": part, **line}
        self.rows.append(row)
        self.write()
        print(f"{part}: {row['row']}: {row['status']}  {_figures(row)}  {row['message']}".rstrip())

    def write(self) -> None:
        """Write both files, each whole."""
        content = {**self.about, "counts": self.counts(), "rows": self.rows}
        for name, text in (
            ("gpu.json", json.dumps(content, indent=1) + "\n"),
            ("gpu.md", self.table()),
        ):
            beside = self.folder / f".{name}.tmp"
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.folder / name)

    def counts(self) -> dict[str, int]:
        """Rows by status."""
        return dict(Counter(row["status"] for row in self.rows))

    @property
    def failed(self) -> bool:
        """Whether any row has."""
        return any(row["status"] == "failed" for row in self.rows)

    def table(self) -> str:
        """Markdown: what it ran on, then one line a row."""
        lines = [f"- {name}: {value}" for name, value in self.about.items() if value is not None]
        lines += ["", "| part | row | outcome | figures | said |", "|---|---|---|---|---|"]
        for row in self.rows:
            said = row["message"].replace("|", "/")
            name = f"{row['part']} | {row['row']} | {row['status']}"
            lines.append(f"| {name} | {_figures(row)} | {said} |")
        return "\n".join(lines) + "\n"


def machine(device: torch.device, small: bool) -> dict[str, Any]:
    """What the rows ran on; no name of a host or a folder."""
    card = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    found: dict[str, Any] = {
        "device": "CPU, so nothing here is a figure of a GPU" if card is None else card.name,
        "memory GB": None if card is None else round(card.total_memory / 1e9, 1),
        "capability": None if card is None else f"{card.major}.{card.minor}",
        "CUDA": torch.version.cuda if card is not None else None,
        "sizes": "small" if small else "1.5 billion parameters",
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _figures(row: Mapping[str, Any]) -> str:
    """The values that are one number or word each."""
    shown = []
    for name, value in row["values"].items():
        if isinstance(value, float):
            shown.append(f"{name} {value:.3g}")
        elif isinstance(value, int | str):
            shown.append(f"{name} {value}")
    return ", ".join(shown)
