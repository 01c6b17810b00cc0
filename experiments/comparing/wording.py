"""Say in tables and sentences what a comparison of methods found, for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from experiments.comparing.comparison import (
    LOSS,
    Comparison,
    Difference,
    Family,
    Method,
    RunScore,
)
from experiments.results.cells import markdown_cell, markdown_table

__all__ = ["COLUMNS", "conclusion", "in_markdown", "in_terminal"]

COLUMNS = 100
NARROWEST = 12  # a method's name, which is broken over lines where there is no room
BEST, FRONT, TRAINED_ON = "*", "F", "†"
MOST_RUNS = 20  # in a table of their own; more are in runs.csv

LEGEND = (
    f"Marks: {BEST} best by validation, {FRONT} on the Pareto front of score and parameters. Of "
    "several seeds the interval is over seeds and test examples, of one over test examples alone."
)
RUNS = "Runs, each with its interval over test examples alone:"
FEW = "(Two seeds say little: three or more narrow the intervals several times.)"

Table = Sequence[Sequence[str]]


def in_terminal(comparison: Comparison) -> str:
    """The comparison for a terminal, in lines of `COLUMNS` characters at the most."""
    parts = [_wrapped(_heading(comparison)), aligned(_methods(comparison)), _wrapped(LEGEND)]
    for family in comparison.families:
        parts += [_wrapped(_family_heading(comparison, family)), aligned(_differences(family))]
    runs = _runs(comparison)
    if 1 < len(runs) - 1 <= MOST_RUNS:
        parts += [RUNS, aligned(runs)]
    parts += [_wrapped(text) for text in (conclusion(comparison), *comparison.notes)]
    return "\n\n".join(part for part in parts if part)


def in_markdown(comparison: Comparison) -> str:
    """The same as Markdown, with all runs."""

    def table(lines: Table) -> str:
        return markdown_table([[markdown_cell(cell) for cell in line] for line in lines])

    parts = [f"## {markdown_cell(_heading(comparison))}", table(_methods(comparison)), LEGEND]
    for family in comparison.families:
        parts += [markdown_cell(_family_heading(comparison, family)), table(_differences(family))]
    parts += [RUNS, table(_runs(comparison))]
    parts += [markdown_cell(text) for text in (conclusion(comparison), *comparison.notes) if text]
    return "\n\n".join(parts)


def conclusion(comparison: Comparison) -> str:
    """What is shown of the metric, and what is not; empty where nothing was compared."""
    if not comparison.families:
        return ""
    family = comparison.families[0]
    said = [f"{d.name} is {family.word(d)} ({_numbers(d)})" for d in family.differences if d.shown]
    if others := [f"{d.name} ({_numbers(d)})" for d in family.differences if not d.shown]:
        *first, last = others
        named = f"{', '.join(first)} and {last}" if first else last
        said.append(f"no difference shown for {named}")
    seeds = sorted({len(d.seeds) for d in family.differences})
    if seeds == [1]:
        over = "over the test examples alone, of one seed: another seed may say otherwise"
    elif seeds[0] == 1:
        over = "over the test examples, and the seeds where there are two or more"
    else:
        over = f"over {' to '.join(map(str, seeds[:: max(1, len(seeds) - 1)]))} seeds and the test "
        over += "examples"
    text = f"In {family.measure}, against {comparison.baseline}: {'; '.join(said)}; {over}."
    return text + (f" {FEW}" if 2 in seeds else "")


def _numbers(d: Difference) -> str:
    return f"{d.mean:+.4f}, {d.low:+.4f} to {d.high:+.4f}"


def _heading(c: Comparison) -> str:
    examples = {m.examples for m in c.methods if m.examples is not None}
    of = f"{min(examples):,} test examples" if len(examples) == 1 else ""
    known = [m for m in c.methods if m.validation is not None]
    by = "sorted by name"
    if known:
        by = f"best by validation ({'loss' if c.chosen_by == 'loss' else c.chosen_by}) first"
    return ", ".join(filter(None, [f"{c.task} with {c.model}", of, by]))


def _methods(c: Comparison) -> list[list[str]]:
    known = any(m.validation is not None for m in c.methods)
    head = ["method", "seeds", *(["validation"] if known else []), f"{c.metric}, 95 %"]
    lines = [[*head, LOSS, "parameters", "cpu s", ""]]
    for m in c.methods:
        marks = [word for word, on in ((BEST, m.best), (FRONT, m.on_front)) if on]
        seen = "" if m.validation_shown is None else f"{m.validation_shown:.4f}"
        lines.append(
            [
                *(m.name, str(len(m.runs))),
                *([seen + TRAINED_ON * (m.trained_on and bool(seen))] if known else []),
                _score(m),
                "" if m.test_loss is None else f"{m.test_loss:.4f}",
                *(f"{m.parameters:,.0f}", f"{m.processor_seconds:,.0f}", "".join(marks)),
            ]
        )
    return lines


def _score(m: Method | RunScore) -> str:
    if m.score is None:
        return "-"
    digits = 2 if abs(m.score) >= 2 else 4
    score = f"{m.score:.{digits}f}"
    if m.low is None or m.high is None:
        return score
    return f"{score} ({m.low:.{digits - 1}f} to {m.high:.{digits - 1}f})"


def _runs(c: Comparison) -> list[list[str]]:
    lines = [["run of", "seed", f"{c.metric}, 95 %", ""]]
    return lines + [[m.name, str(run.seed), _score(run), ""] for m in c.methods for run in m.runs]


def _family_heading(c: Comparison, family: Family) -> str:
    why = f" ({c.baseline_reason})" if family is c.families[0] else ""
    return (
        f"Differences in {family.measure} to {c.baseline}{why}, 95 % intervals unadjusted, "
        f"{family.adjustment}"
    )


def _differences(family: Family) -> list[list[str]]:
    lines = [["method", "seeds", "difference", "95 % interval", "p (Holm)", ""]]
    for d in family.differences:
        lines.append(
            [
                *(d.name, f"{len(d.seeds)}{' (examples only)' if len(d.seeds) == 1 else ''}"),
                *(f"{d.mean:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}"),
                *(d.p_words, family.word(d)),
            ]
        )
    return lines


def aligned(lines: Table) -> str:
    """A table for a terminal: the first column is broken over lines where it is too wide."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    room = COLUMNS - sum(width + 2 for width in widths[1:])
    widths[0] = min(widths[0], max(NARROWEST, room))
    found = []
    for line in lines:
        names = textwrap.wrap(line[0], widths[0]) or [""]
        # numbers stand at the right, words at the left
        cells = [
            cell.ljust(w) if i == len(line) - 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line[1:], widths[1:], strict=True))
        ]
        found.append("  ".join([names[0].ljust(widths[0]), *cells]).rstrip())
        found += [f"  {name}"[: widths[0] + 2] for name in names[1:]]
    found.insert(1, "-" * max(map(len, found)))
    return "\n".join(found)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, COLUMNS)
