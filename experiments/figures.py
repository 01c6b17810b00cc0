"""Draw all pictures of a run out of its files: ``python -m experiments.figures DIR``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, printable
from experiments.cli.command_line import one_sentence, refuse_options
from experiments.cli.messages import sentence
from experiments.comparing.comparison import Comparison
from experiments.plots import (
    comparison,
    cosine,
    cosine_compared,
    curves,
    frontier,
    gates,
    losses,
    pareto,
    planted_recovery,
    ranks,
    ranks_compared,
    source_weights,
    values,
    values_compared,
    watched,
    watched_compared,
)
from experiments.plots.records import Record, method_name
from experiments.results import ranks_folder, record
from experiments.results.links import refuse_links
from experiments.results.metrics_file import read_metrics

__all__ = [
    "Run",
    "draw",
    "draw_several",
    "drawings",
    "drawings_of_several",
    "read_metrics",
    "with_records",
]

# What a figure ends in when the values that it is drawn of do not go together.
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)

# A run's lines of metrics.jsonl, and its result.json.
Run = tuple[list[Record], dict[str, Any]]


def drawings(
    folder: Path, result: dict[str, Any], records: list[Record]
) -> dict[str, Callable[[Path], bool]]:
    """The figures of a run: file's name -> what draws it into a file, False when there is nothing.

    Args:
        folder: of the run, which may hold ranks of its own.
        result: its result.json.
        records: the lines of its metrics.jsonl.

    Raises:
        UserError: its ranks.json is damaged.
    """
    found: dict[str, Callable[[Path], bool]] = {
        "losses.png": lambda path: losses.draw(records, result, path),
        "ranks.png": lambda path: ranks.draw(result, path),
        "gates.png": lambda path: gates.draw(records, result, path),
        "values.png": lambda path: values.draw(records, result, path),
        "orthogonality.png": lambda path: watched.draw_orthogonality(records, result, path),
        "density.png": lambda path: watched.draw_density(records, result, path),
        "source_weights.png": lambda path: source_weights.draw(records, result, path),
        "watched.png": lambda path: watched.draw_others(records, result, path),
        "cosine.png": lambda path: cosine.draw(result, path),
    }
    cut = ranks_folder.read(folder)
    if cut is not None:
        found[ranks_folder.PICTURE] = lambda path: frontier.draw(cut, path)
    return found


def draw(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Draw what the run in ``folder`` has data for; returns the files.

    They go into ``figures``, but for that of ranks.json, which stands beside those ranks.
    """
    drawn = []
    for name, draws in drawings(folder, result, read_metrics(folder)).items():
        place = ranks_folder.FOLDER if name == ranks_folder.PICTURE else "figures"
        if draws(folder / place / name):
            drawn.append(folder / place / name)
    return drawn


def _file_name(*parts: str) -> str:
    """Names joined without anything that makes a folder: a model may be a path."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", "_".join(parts)).strip("_")


def _file_names(settings: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A name for the files of each task and model, no two alike: many letters become one sign."""
    plain = {setting: _file_name(*setting) for setting in settings}
    names = {}
    for setting, name in plain.items():
        alike = [other for other, own in plain.items() if own.lower() == name.lower()]
        number = f"_{alike.index(setting) + 1}" if len(alike) > 1 else ""
        names[setting] = f"{name}{number}"
    return names


def draw_several(
    results: Sequence[dict[str, Any]],
    runs: Sequence[Run],
    out: Path,
    compared: Sequence[Comparison] = (),
) -> list[Path]:
    """Draw what there is data for over several runs into ``out``; returns the files.

    Args:
        results: result.json of each run, with its ``variant``.
        runs: those of them with lines of metrics.jsonl, of :func:`with_records`.
        out: where comparison.png and the others go.
        compared: what was compared of them, for the Pareto front.
    """
    drawings = drawings_of_several(results, runs, compared)
    return [out / name for name, draws in drawings.items() if draws(out / name) is not False]


def with_records(results: Sequence[dict[str, Any]]) -> list[Run]:
    """The runs with the lines of their metrics.jsonl; of one that cannot be read it is told.

    Args:
        results: result.json of each run, with its ``folder`` (that of the run); without a folder
            it is left out of the pictures of what happened over the steps.
    """
    runs = []
    for result in results:
        if result.get("folder"):
            try:
                records = read_metrics(Path(result["folder"]))
                if records and not result.get("engine"):
                    raise UserError(f"{result['folder']}: its result.json has no 'engine'")
                runs.append((records, result))
            except UserError as error:
                print(f"not in the figures over steps: {sentence(error)}", file=sys.stderr)
    return runs


def drawings_of_several(
    results: Sequence[dict[str, Any]], runs: Sequence[Run], compared: Sequence[Comparison] = ()
) -> dict[str, Callable[[Path], object]]:
    """The figures of several runs: file's name -> what draws it, False when there is nothing.

    Args:
        results: result.json of each run, with its ``variant``.
        runs: lines of metrics.jsonl and result.json of those that have some; others are left out.
        compared: what was compared of them: the metric, and the Pareto front.
    """
    known = {r.get("folder") for r in results}
    runs = [run for run in runs if run[1]["folder"] in known]
    drawings: dict[str, Callable[[Path], object]] = {
        "comparison.png": lambda path: comparison.draw(results, path, compared),
        "losses_compared.png": lambda path: curves.draw(runs, path),
        "pareto.png": lambda path: pareto.draw(compared, path),
        "cosine_compared.png": lambda path: cosine_compared.draw(results, path),
        "planted.png": lambda path: planted_recovery.draw(results, path),
    }
    for name in watched_compared.LABELS:
        drawings[f"{name}_compared.png"] = partial(watched_compared.draw, runs, name)
    settings = sorted({(r["task"], r["model"]) for r in results})
    files = _file_names(settings)
    chosen = _one_a_method(runs)
    for setting in (one for one in settings if one in chosen):
        own = partial(values_compared.draw, chosen[setting])
        drawings[f"values_{files[setting]}.png"] = own
    for setting in settings:
        here = [r for r in results if (r["task"], r["model"]) == setting]
        drawings[f"ranks_{files[setting]}.png"] = partial(ranks_compared.draw, here)
    return drawings


def _one_a_method(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Task and model -> one run of each method that has values, of its first seed."""
    chosen: dict[tuple[str, str], dict[str, Run]] = {}
    for records, result in sorted(runs, key=lambda run: run[1]["seed"]):
        if any(record["kind"] == "gates" for record in records):
            here = chosen.setdefault((result["task"], result["model"]), {})
            here.setdefault(method_name(result), (records, result))
    return {key: [here[name] for name in sorted(here)] for key, here in chosen.items()}


def main(words: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figures", description="Draw the figures of a finished run."
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    given = sys.argv[1:] if words is None else words
    folder = parser.parse_args(given).folder
    with one_sentence():
        refuse_options(given, [folder])
        result = record.read(folder)
        if result is None:
            raise UserError(f"{folder} holds no finished run: result.json is missing")
        if "program" in result:  # those of other programs have a form of their own
            raise UserError(f"{folder} is a result of experiments.{result['program']}, no run")
        refuse_links(folder)
        try:
            drawn = draw(folder, result)
        except UserError:
            raise
        except DAMAGE as error:
            raise UserError(
                f"{folder}: nothing can be drawn of its result.json, metrics.jsonl and ranks.json, "
                f"they are damaged or of another version ({type(error).__name__}: {error})"
            ) from error
        for path in drawn:
            print(printable(str(path)))
        if not drawn:
            print(printable(f"{folder}: there is nothing to draw of {result['method']}"))


if __name__ == "__main__":
    main()
