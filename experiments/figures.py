"""All pictures of a run, out of its files: ``python -m experiments.figures DIR`` draws them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.command import one_sentence
from experiments.plots import cosine, gates, losses, ranks, values, watched

__all__ = ["draw", "read_metrics"]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none without the file."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def draw(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Draw what the run in ``folder`` has data for into ``folder/figures``; returns the files."""
    figures = folder / "figures"
    records = read_metrics(folder)
    drawings: dict[str, Callable[[Path], bool]] = {
        "losses.png": lambda path: losses.draw(records, result, path),
        "ranks.png": lambda path: ranks.draw(result, path),
        "gates.png": lambda path: gates.draw(records, result, path),
        "values.png": lambda path: values.draw(records, result, path),
        "orthogonality.png": lambda path: watched.draw_orthogonality(records, result, path),
        "density.png": lambda path: watched.draw_density(records, result, path),
        "cosine.png": lambda path: cosine.draw(result, path),
    }
    return [figures / name for name, drawn in drawings.items() if drawn(figures / name)]


def main(words: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figures", description="Draw the figures of a finished run."
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args(words).folder
    with one_sentence():
        if not (folder / "result.json").is_file():
            raise UserError(f"{folder} holds no finished run: result.json is missing")
        for path in draw(folder, json.loads((folder / "result.json").read_text())):
            print(path)


if __name__ == "__main__":
    main()
