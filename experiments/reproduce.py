"""Reproduce the papers' tables and figures: ours beside theirs.

    python -m experiments.reproduce table=list
    python -m experiments.reproduce table=autolora/glue [data=DIR] [seeds=0,1] [only=sst2,rte]

Says first how many runs it is and how long; runs what is missing, each in a process of its own, or
by hydra/launcher=NAME several at once; writes the table after every run. Stopped at any point, the
same command goes on.
docs/reproduce.md explains the options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bilevel.checkpoint.disk import check_writable
from bilevel.errors import UserError
from experiments.cli import stopping
from experiments.cli.command_line import FAILURE, fail
from experiments.cli.program import program
from experiments.cli.writing import write_atomically
from experiments.reproduction import rates, runner, smoke, start, table
from experiments.reproduction.cells import Cell
from experiments.reproduction.entries import Entry, load, names
from experiments.reproduction.options import Options
from experiments.reproduction.pace import forecast
from experiments.reproduction.planning import plan

__all__ = ["Reproduction", "listing", "main"]

Runner = Callable[[list[str]], str | None]
LIST = "list"


class Reproduction:
    """One table on its way.

    Args:
        entry: which.
        options: how.
        run: makes one run from its words; returns why it failed, or None.

    Attributes:
        cells: all runs asked for; finished: those that are, with result.json; failed: those that
            failed this time, with the reason.
    """

    def __init__(self, entry: Entry, options: Options, run: Runner = runner.run) -> None:
        self.entry = entry
        self.options = options
        self.cells = plan(entry, options)
        self.failed: dict[Path, tuple[Cell, str]] = {}
        self.finished: list[tuple[Cell, dict[str, Any]]] = []
        self._run = run
        for cell in self.cells:
            self._look(cell)

    @property
    def folder(self) -> Path:
        """Where table and figures go: with a warm start beside those without."""
        place = self.options.out / self.entry.name
        return place / start.FOLDER if self.options.warm_start else place

    def _look(self, cell: Cell) -> bool:
        """Note a cell as finished, if it is; one of other settings as failed."""
        try:
            values = cell.result()
        except UserError as error:
            self._fail(cell, str(error))
            return False
        if values is not None:
            self.finished.append((cell, values))
        return values is not None

    def _fail(self, cell: Cell, reason: str) -> None:
        self.failed[cell.folder] = (cell, reason)

    def missing(self) -> list[Cell]:
        """Runs still to be made, in order."""
        done = {cell.folder for cell, _ in self.finished} | self.failed.keys()
        return [cell for cell in self.cells if cell.folder not in done]

    def summary(self) -> str:
        """What it is, how many runs, how many of them missing, how long."""
        missing = self.missing()
        counts = f"{_runs(len(self.cells))}, {len(self.finished)} finished, {len(missing)} to do"
        if self.failed:
            counts += f", {len(self.failed)} that cannot be used"
        lines = [self.entry.heading, f"{counts}: {forecast(missing, self.finished)}"]
        lines += [f"unknown: {what}" for what in self.entry.unknown]
        lines += [f"note: {what}" for what in self.entry.notes]
        return "\n".join([*self._labels(), *lines])

    def _labels(self) -> list[str]:
        lines = [smoke.LABEL] if self.options.smoke else []
        lines += [start.LABEL] if self.options.warm_start else []
        if self.options.overrides:
            given = " ".join(f"{key}={value}" for key, value in self.options.overrides.items())
            lines.append(f"with {given} for all runs, whatever the paper has")
        return lines

    def commands(self) -> str:
        """The commands of the missing runs, a line each."""
        return "\n".join(runner.command(cell.words()) for cell in self.missing())

    def make(self) -> None:
        """Make the missing runs; those that fail are noted, and the others go on."""
        if self.options.launcher:
            self._make_together()
            return
        missing = self.missing()
        for number, cell in enumerate(missing, start=1):
            print(f"\n[{number}/{len(missing)}] {cell.label}", flush=True)
            reason = self._reason(cell)
            if reason is None and not self._look(cell) and cell.folder not in self.failed:
                reason = "it ended without a result.json"
            if reason is not None:
                self._fail(cell, reason)
                print(f"failed: {reason}")
            self.write()
            if number < len(missing):
                print(f"left: {forecast(self.missing(), self.finished)}", flush=True)

    def _make_together(self) -> None:
        """Make the missing runs by a launcher: all at once but those that start from another."""
        while missing := self.missing():
            wanted = {cell.folder for cell in missing}
            ready = [c for c in missing if c.start is None or c.start.folder not in wanted]
            for cell in ready:
                if (reason := self._refusal(cell)) is not None:
                    self._fail(cell, reason)
                    print(f"failed: {cell.label}: {reason}")
            ready = [cell for cell in ready if cell.folder not in self.failed]
            print("\n".join(["", *(cell.label for cell in ready)]), flush=True)
            runner.run_together(ready, self.options.launcher, self.folder)
            for cell in ready:
                if not self._look(cell) and cell.folder not in self.failed:
                    self._fail(cell, runner.last_error(cell.folder))
                    print(f"failed: {cell.label}: {self.failed[cell.folder][1]}")
            self.write()

    def _reason(self, cell: Cell) -> str | None:
        """Make one run; why it failed, if it did."""
        reason = self._refusal(cell)
        if reason is not None:
            return reason
        words = cell.words()
        print(runner.command(words), flush=True)
        return self._run(words)

    def _refusal(self, cell: Cell) -> str | None:
        """Why a run cannot be begun, if it cannot."""
        if cell.missing_data is not None:
            return (
                f"there is no folder {cell.missing_data} with the data of {cell.task}: name it "
                f"with data.{cell.task}=DIR, or leave data= out to read the hub"
            )
        try:
            cell.check()
            if cell.start is not None and cell.start.result() is None:
                return f"the run that it starts from is not finished: {cell.start.label}"
        except UserError as error:
            return str(error)
        return None

    def write(self) -> str:
        """Write table.md and table.csv; returns the text."""
        failed = [cell for cell, _ in self.failed.values()]
        tables = [
            (block, table.collect(block, self.cells, self.finished, failed, self.options.smoke))
            for block in self.entry.blocks
        ]
        prefix, warm = "smoke " if self.options.smoke else "", self.options.warm_start
        parts = [f"# {self.entry.heading}", *(f"**{line}**" for line in self._labels())]
        for block, ours in tables:
            caption = f"{block.model}, {block.caption}" if block.caption else block.model
            parts += [f"## {caption}", table.markdown(block, ours, prefix)]
        parts += [_bullets("Unknown, so of our choosing", self.entry.unknown)]
        notes = [*self.entry.notes, *_rates(self.entry), *_not_run(self.entry)]
        parts += [_bullets("Notes", [*notes, *(_apart(self.entry) if warm else [])])]
        failures = [f"{cell.label}: {reason}" for cell, reason in self.failed.values()]
        parts += [_bullets("Failed", failures), MARKS]
        text = "\n\n".join(part for part in parts if part)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "table.md", text + "\n")
        write_atomically(self.folder / "table.csv", table.as_csv(tables, self.options.smoke))
        return text

    def draw(self) -> list[Path]:
        """Draw the comparisons of all finished runs; of a figure entry, return what shows it."""
        if not self.finished:
            return []
        from experiments import figures  # matplotlib is slow to load

        suffix = " (smoke)" if self.options.smoke else ""
        captions = len({cell.block.caption for cell, _ in self.finished})
        results = [
            {
                **values,
                "method": cell.row + suffix,
                "variant": " ".join(
                    [
                        *([cell.block.caption] if captions > 1 else []),
                        *(f"{key}={cell.settings[key]}" for key in cell.block.rows[cell.row].grid),
                    ]
                ),
                "folder": str(cell.folder),
            }
            for cell, values in self.finished
        ]
        drawn = figures.draw_several(results, figures.with_records(results), self.folder)
        if self.entry.figure is None:
            return drawn
        found = [path for path in drawn if path.match(self.entry.figure)]
        for cell, _ in self.finished:
            found += sorted((cell.folder / "figures").glob(self.entry.figure))
        return found


MARKS = (
    "Ours: mean ± sample standard deviation over seeds; n/a: finished, but without such a score. "
    "The paper's figures: those without a mark were read in a paper, in a picture of it or in its "
    "code; (third party): somebody else says so; (recalled): remembered or assumed, not checked."
)


def _bullets(title: str, items: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {item}" for item in items)]) if items else ""


def _rates(entry: Entry) -> list[str]:
    """A line on the rows that do not have the learning rate of the others."""
    found: dict[str, None] = {}
    for block in entry.blocks:
        for label, row in block.rows.items():
            own = {} if row.method is None else rates.own(row.method, row.settings)
            values = " and ".join(f"{value:g}" for value in own.values())
            found |= {f"{label} {values} ({block.model})": None} if own else {}
    return [f"learning rates of their own have {', '.join(found)}"] if found else []


def _not_run(entry: Entry) -> list[str]:
    rows = {label: row.not_run for block in entry.blocks for label, row in block.rows.items()}
    return [f"{label} is not run: {reason}" for label, reason in rows.items() if reason]


def _apart(entry: Entry) -> list[str]:
    """Rows that a warm start is not for."""
    rows = {label: row for block in entry.blocks for label, row in block.rows.items()}
    return [f"{label} {start.OTHERS}" for label, row in rows.items() if row.method in start.APART]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def listing() -> str:
    """All entries, a line each: paper, number, runs, models."""
    lines = []
    for name in names():
        entry = load(name)
        cells = plan(entry, Options(table=name))
        models = ", ".join(dict.fromkeys(b.model for b in entry.blocks))
        shared = [cell.block.table for cell in cells if cell.block.table != name]
        of = f" ({len(shared)} of them of {' and '.join(dict.fromkeys(shared))})" if shared else ""
        lines.append((name, f"{entry.heading}; {_runs(len(cells))}{of}; {models}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def reproduce(options: Options, run: Runner = runner.run) -> int:
    """What the program does; returns its exit status."""
    if options.table == LIST:
        print(listing())
        return 0
    work = Reproduction(load(options.table), options, run)
    print(work.summary(), flush=True)
    if options.dry_run:
        print(work.commands())
        return 0
    check_writable(work.folder, "out")
    with stopping.orderly():
        try:
            work.make()
        except KeyboardInterrupt:
            print(f"\n{work.write()}")
            fail("interrupted; the same command goes on from here", stopping.status())
    print(f"\n{work.write()}\n\n{work.folder / 'table.md'}, table.csv")
    for path in work.draw():
        print(f"figure: {path}")
    if work.entry.kind == "figure":
        print(f"the project's figures of this: {work.entry.figure}")
    for cell, reason in work.failed.values():
        print(f"failed: {cell.label}: {reason}", file=sys.stderr)
    return FAILURE if work.failed else 0


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    status = reproduce(Options.parse(words))
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
