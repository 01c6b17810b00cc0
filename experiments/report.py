"""Compare finished runs: ``python -m experiments.report DIR ...`` (done by itself after ``-m``).

Runs that differ in their seed only are one method. What the differences between methods are worth
is said over seeds and test examples (docs/comparing.md); below stands how far the ranks that they
found agree.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bilevel.checkpoint.disk import check_writable
from bilevel.errors import UserError, printable
from experiments.cli import stopping
from experiments.cli.command_line import one_sentence, refuse_options
from experiments.cli.messages import sentence
from experiments.cli.writing import write_atomically
from experiments.comparing.data_sets import by_data
from experiments.comparing.options import PLACE, START
from experiments.comparing.variants import name_alike, one_a_seed, told_apart
from experiments.config import stored
from experiments.results import cells, record
from experiments.results.grid import RANK, searched

__all__ = ["conclude", "report", "rows"]

# What a folder with a saved adapter or model has.
SAVED = ("adapter_config.json", "adapter_model.safetensors", "model.safetensors")
# Already in the table by other columns, or without influence on the result.
# Folders of data and of a run to begin with are told where they differ (comparing.variants).
NOT_A_VARIANT = ("method", "task", "model", "seed", "run.", PLACE, START, "hydra.")


def conclude(folder: Path, unfinished: str = "failed") -> list[Path]:
    """End a multirun: write and print its table, and name the runs that are not in it.

    Args:
        folder: of the multirun.
        unfinished: what happened to those.

    Returns:
        Their folders, and those of damaged ones.
    """
    found = _collect([folder])
    pages = None
    if found.finished:
        text, pages = _tables(found, [folder], folder)
        print(text)
    for path in found.failed:
        print(printable(f"{unfinished}: {path} (see its run.log)"))
    if pages is not None and not stopping.requested():  # they take seconds a run
        print(pages())
    return [*found.failed, *found.damaged]


def report(
    folders: Sequence[Path], out: Path, against: str | None = None, metric: str | None = None
) -> str:
    """Write the tables and figures into ``out``; returns what is to be read on a terminal.

    summary.md and summary.csv (a row a method), runs.csv (a row a run), comparison.json.

    Args:
        folders: of runs, or of folders with runs below them.
        out: where to write.
        against, metric: see :func:`experiments.comparing.compare.compare`.

    Raises:
        UserError: no finished run is in the folders, or ``against`` or ``metric`` is not there.
    """
    if missing := [folder for folder in folders if not folder.exists()]:
        raise UserError(f"there is no folder {missing[0]}")
    found = _collect(folders)
    for folder in folders:
        places = [*(Path(r["folder"]) for r in found.finished), *found.failed, *found.damaged]
        if places and not any(place.resolve().is_relative_to(folder.resolve()) for place in places):
            print(f"passed over: no run is in {folder}", file=sys.stderr)
    for reason in found.damaged.values():
        print(f"passed over: {reason}", file=sys.stderr)
    if not found.finished:
        begun = f"; {len(found.failed)} have begun" if found.failed else ""
        raise UserError(f"no finished run (result.json) in {', '.join(map(str, folders))}{begun}")
    text, pages = _tables(found, folders, out, against, metric)
    return f"{text}\n{_unfinished(found)}{pages()}".rstrip("\n")


def _unfinished(found: _Found) -> str:
    """A line on the runs that are not in the tables; none if there are none."""
    if not found.failed:
        return ""
    whole = len(found.failed) + len(found.finished)
    names = printable(", ".join(path.name for path in found.failed))
    return f"{len(found.failed)} of {whole} runs that have begun are not finished: {names}\n"


def _tables(
    found: _Found,
    folders: Sequence[Path],
    out: Path,
    against: str | None = None,
    metric: str | None = None,
) -> tuple[str, Callable[[], str]]:
    """What :func:`report` says of the tables, and a function that writes the pages and says so."""
    # matplotlib and scipy are slow to load, and --help needs them not
    from experiments import figures
    from experiments.comparing import wording
    from experiments.comparing.compare import compare
    from experiments.comparing.comparison import as_json
    from experiments.comparing.rows import of_methods, of_runs
    from experiments.pages import writing
    from experiments.pages.several import Unread
    from experiments.results import seeds
    from experiments.verdicts import verdict

    finished = told_apart(by_data(found.finished))
    try:
        finished += searched(finished, RANK)
    except UserError as error:  # the runs are there, and have a table all the same
        print(printable(f"no row of a grid's best run: {sentence(error)}"), file=sys.stderr)
    compared = compare(finished, against, metric)
    counted = one_a_seed(finished)
    table = rows(counted)
    # a grid's best run is one of the runs, which has its own page, curve and verdict
    runs = figures.with_records([r for r in finished if not r.get("of_grid")])
    agreeing = seeds.agreement_of_ranks(finished, runs)
    check_writable(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(of_methods(table, compared), out / "summary.csv")
    _write_csv(of_runs(compared), out / "runs.csv")
    write_atomically(out / "comparison.json", json.dumps(as_json(compared), indent=2) + "\n")
    judged = "\n".join(f"- {line}" for line in verdict.of_runs(counted))
    judged = judged and f"Verdicts:\n\n{judged}"
    in_markdown = [*map(wording.in_markdown, compared), markdown(table), agreeing.markdown, judged]
    write_atomically(out / "summary.md", "\n\n".join(filter(None, in_markdown)) + "\n")
    text = "\n\n\n".join(map(wording.in_terminal, compared))
    # the table of their agreement, a row a kind of module, is in summary.md alone
    said = [textwrap.fill(text, wording.COLUMNS) for text in agreeing.sentences]
    text = printable("\n\n".join(filter(None, (text, *said, judged))))
    drawn = [path.name for path in figures.draw_several(counted, runs, out, compared)]
    written = ["summary.md", "runs.csv", "comparison.json", *drawn]

    def pages() -> str:
        unread = [Unread(path, "not finished (see its run.log)") for path in found.failed]
        unread += [Unread(path, reason) for path, reason in found.damaged.items()]
        there = writing.write(finished, runs, compared, agreeing.sentences, unread, folders, out)
        more = len(there) - 1
        also = f" and {more} page{'s' * (more > 1)} of runs" if more > 0 else ""
        return f"{there[0]}{also}" if there else ""

    return f"{text}\n\n{out / 'summary.csv'}, {', '.join(written)}", pages


def rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a method, variant, task and model.

    Args:
        results: result.json of each run, with its ``variant``, one a seed.

    Returns:
        ``method``, ``variant``, ``task``, ``model``, ``seeds`` (how many), and for each measure
        ``NAME_mean`` and ``NAME_std`` (sample standard deviation; None for a single seed).
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for r in results:
        key = (r["task"], r["model"], r["method"], r.get("variant", ""))
        groups.setdefault(key, []).append(r)
    table = []
    for (task, model, method, variant), members in sorted(groups.items()):
        row: dict[str, Any] = {
            "method": method,
            "variant": variant,
            "task": task,
            "model": model,
            "seeds": len(members),
        }
        measures = [_measures(r) for r in members]
        for name in dict.fromkeys(name for found in measures for name in found):
            values = [value for found in measures if (value := found.get(name)) is not None]
            row[f"{name}_mean"] = statistics.fmean(values) if values else None
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
        table.append(row)
    return table


def _measures(r: Mapping[str, Any]) -> dict[str, float | None]:
    ranks = r["ranks"]
    planted = r.get("planted") or {"spearman": None, "exact": None}
    return {
        **r["metrics"],
        "train_loss": r["train_loss"],
        "validation_loss": r["validation_loss"],
        "test_loss": r["test_loss"],
        "gap": record.gap(r),
        "mean_rank": statistics.fmean(ranks.values()) if ranks else None,
        "undecided_ranks": _undecided(r.get("decided")),
        "rank_correlation": planted["spearman"],
        "exact_ranks": planted["exact"],
        "trained": r["trainable_parameters"],
        "saved": r["adapter_parameters"] + r["head_parameters"],
        "examples": sum(r["examples_seen"].values()),
        "seconds": sum(r["seconds"].values()),
        "cpu_seconds": sum(r["processor_seconds"].values()),
        "peak_memory_mib": r["peak_memory_mib"],
    }


def _undecided(decided: Mapping[str, Any] | None) -> float | None:
    """Share of the components that lie within noise of the cut; None where it is not known."""
    if decided is None or decided["near"] is None:
        return None
    return float(decided["near"]) / decided["components"]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table, padded so that it reads well on a terminal too."""
    measures: list[str] = []
    for row in table:
        measures += [
            name
            for key in row
            if key.endswith("_mean")
            and (name := key.removesuffix("_mean")) not in measures
            and any(other.get(key) is not None for other in table)
        ]
    fixed = ["method", "variant", "task", "model", "seeds"]
    if not any(row["variant"] for row in table):
        fixed.remove("variant")
    lines = [[*fixed, *map(cells.markdown_cell, measures)]]
    for row in table:
        numbers = [_mean_and_spread(row, name) for name in measures]
        lines.append([*(cells.markdown_cell(str(row[name])) for name in fixed), *numbers])
    return cells.markdown_table(lines)


def _mean_and_spread(row: Mapping[str, Any], name: str) -> str:
    mean, spread = row.get(f"{name}_mean"), row.get(f"{name}_std")
    if mean is None:
        return ""
    digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 100 else 2 if abs(mean) >= 2 else 4
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _write_csv(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(key for row in table for key in row))
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow([cells.csv_cell(name) for name in columns])
    writer.writerows([cells.csv_cell(row.get(name, "")) for name in columns] for row in table)
    write_atomically(path, file.getvalue())


@dataclass(frozen=True)
class _Found:
    """What is below some folders.

    finished: the results, each with its variant. failed: folders of unfinished runs. damaged:
    folders whose files cannot be read, and why.
    """

    finished: list[dict[str, Any]] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)


def _collect(folders: Sequence[Path]) -> _Found:
    folders = list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]
    runs = sorted({path.parent.parent for f in folders for path in f.rglob(".hydra/config.yaml")})
    others = {path.parent for f in folders for path in f.rglob(record.FILE)}
    # One of finetune, which is not finished, has no more than this.
    others |= {path.parent.parent for f in folders for path in f.rglob(str(stored.JOURNAL))}
    runs += sorted(others.difference(runs))
    found, overrides = _Found(), []
    for run in runs:
        try:
            values = record.read(run)
            given = _overrides(run)
        except UserError as error:  # one such file must not cost all others their table
            found.damaged[run] = sentence(error)
            continue
        if values is None:
            found.failed.append(run)
        elif "program" not in values:  # those of other programs are no runs
            found.finished.append({**values, "folder": str(run)})
            overrides.append(given)
    common = set.intersection(*overrides) if overrides else set()
    for values, given in zip(found.finished, overrides, strict=True):
        values["variant"] = " ".join(sorted(given - common))
    name_alike(found.finished)
    return found


def _overrides(run: Path) -> set[str]:
    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return set()
    return {
        word
        for word in stored.words(run)
        if not any(
            word.startswith(name if name.endswith(".") else f"{name}=") for name in NOT_A_VARIANT
        )
    }


def main(words: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Compare all runs in the folders: scores with intervals, differences between "
        "methods over seeds and test examples, tables and figures.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--out", type=Path, help="where to write; default: the first DIR")
    parser.epilog = (
        "Beside the folders: against=METHOD, the baseline (default: plain lora, else the best by "
        "validation); metric=NAME, which score to compare (default: the task's primary one)."
    )
    given, options = _options(sys.argv[1:] if words is None else words)
    known = parser.parse_args(given)
    with one_sentence():
        refuse_options(given, known.folders)
        out = known.out or known.folders[0]
        if any((out / name).exists() for name in SAVED):
            raise UserError(
                f"{out} is the folder of a saved model, which may be sent on as it lies: give "
                "another --out, or the run's folder"
            )
        print(report(known.folders, out, **options))


def _options(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words without ``against=`` and ``metric=``, and these; a folder of that name stays."""
    rest, options = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and value and key in ("against", "metric") and not os.path.exists(word):
            options[key] = value
        else:
            rest.append(word)
    return rest, options


if __name__ == "__main__":
    main()
