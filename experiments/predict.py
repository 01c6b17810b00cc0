"""Predict with a finished run: labels, probabilities, tags, numbers or texts for rows of your own.

    python -m experiments.predict run=DIR data=FILE out=FILE
    ... | python -m experiments.predict run=DIR data=- out=FILE

FILE is a csv, tsv, jsonl, json or Parquet file (those of text also .gz) with the columns that the
run's data have, without the answers; a .txt file with a text a line; for tags a file of a word a
line (.conll). ``data=-`` is standard input, a text a line. ``format=csv`` and the like says
otherwise. out= is .csv, .jsonl or .parquet: the columns of FILE (``keep=[id]`` for some of them,
``keep=[]`` for none) with ``prediction``, and of classes and labels ``probability_NAME`` of each.

All of FILE is checked before the model loads. Rows with nothing to read are a mistake, or with
``empty=skip`` have no answer. What is interrupted goes on with the same command: what is done lies
in OUT.parts until all of it is. Also: ``batch_size`` (64), ``adapter=DIR`` for another than the
run's own, ``task.delimiter=semicolon`` and other options of files, ``task.text_columns=[comment]``
where the columns have other names, ``model.pretrained=DIR`` where the model has moved.
See docs/predict.md.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from bilevel.errors import UserError, listed, nearest, printable
from bilevel.settings import Count, Settings
from experiments.answers import Answers
from experiments.cli import stopping
from experiments.cli.command_line import CommandLine, one_sentence
from experiments.cli.own_options import own_options
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.predicting.formats import (
    SUFFIXES,
    Csv,
    Format,
    Jsonl,
    Parquet,
    as_columns,
    check_suffix,
)
from experiments.predicting.parts import Parts, refuse_taken
from experiments.predicting.remarks import once_said
from experiments.predicting.saved import Asking
from experiments.predicting.table import Kind, Survey, Table, kind_of_file, windows
from experiments.predicting.window import rows_at_once
from experiments.results.finished_run import SavedRun
from experiments.tasks.inputs import Inputs
from experiments.tasks.reading.row import Row

if TYPE_CHECKING:
    from experiments.predicting.predictor import Predictor

__all__ = ["PredictOptions", "main"]

GROUPS = ("model", "task")  # of the configuration, that have a say here
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class PredictOptions(Settings):
    """What this program is told besides the run, the files and the run's configuration."""

    format: Kind | None = None
    """What data= is; null: as its name says, and of standard input a text a line."""
    keep: tuple[str, ...] | None = None
    """The columns of data= that are written too; null for all."""
    empty: Literal["refuse", "skip"] = "refuse"
    """What becomes of rows with nothing to read: refuse, or skip, which leaves their answer out."""
    batch_size: Count = 64
    """Rows that the model is given at once, at most; of long ones fewer."""


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    options, own, overrides = own_options(
        PredictOptions, line.overrides, GROUPS, "run", "data", "out", "adapter"
    )
    data, out = own["data"], Path(own["out"] or "")
    if data is None:
        raise UserError("say what to predict on: data=FILE, or data=- for standard input")
    if own["out"] is None:
        raise UserError(f"say where to write: out=FILE, ending in one of {listed(SUFFIXES)}")
    suffix = check_suffix(out)
    if data != STANDARD_INPUT and out.resolve() == Path(data).resolve():
        raise UserError(f"data and out are the same file, {out}: give another out=FILE")
    refuse_taken(out)
    asking = Asking.of(SavedRun.open(own["run"], line, overrides), own["adapter"])
    folder = out.parent
    # The sentence inside, which then knows of the signal.
    with stopping.orderly(), one_sentence(), _table(data, asking.inputs, options, folder) as table:
        answers = asking.answers()
        form = _format(suffix, answers, table, options.keep)
        window = rows_at_once(answers.kind)
        survey = _survey(table, form, options, window)
        state = {
            "data": f"{survey.digest} {table.kind}",
            "run": asking.digest(),
            "options": f"{options.keep} {options.empty}",
        }
        parts = Parts(out, form, window)
        with parts.opened(state):
            _predict(asking, table, survey, options, parts)
        parts.join()
    skipped = f", {survey.empty:,} of them without an answer" if survey.empty else ""
    print(printable(f"{out}: {survey.rows:,} rows{skipped}"))


@contextmanager
def _table(data: str, inputs: Inputs, options: PredictOptions, folder: Path) -> Iterator[Table]:
    """The data as a file that can be read several times: what comes through a pipe is kept."""
    path, piped = Path(data), data == STANDARD_INPUT
    if not piped and not path.exists():
        raise UserError(f"data={data}: there is no such file")
    if not piped and path.is_dir():
        raise UserError(f"data={data} is a folder: name one file")
    if options.format == "conll" and not inputs.words:
        raise UserError("format=conll is for runs that tag words, and this one does not")
    if not piped and path.is_file():
        yield Table(path, options.format or kind_of_file(path, inputs.words), inputs, path)
        return
    if options.format == "parquet":
        raise UserError("format=parquet needs a file, which is read from its end: data=FILE")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".predict.") as scratch:
        copy = Path(scratch, "data")
        with copy.open("wb") as kept:
            if piped:
                shutil.copyfileobj(sys.stdin.buffer, kept)
            else:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, kept)
        name = Path("standard input") if piped else path
        yield Table(copy, options.format or "text", inputs, name)


def _format(suffix: str, answers: Answers, table: Table, keep: tuple[str, ...] | None) -> Format:
    """How it is written: csv as the run's own files, Parquet with the types of a Parquet file."""
    kind, names = answers.kind, answers.names or ()
    if suffix == ".jsonl":
        return Jsonl(kind, names)
    if suffix == ".csv":
        delimiter = table.inputs.dialect.character(",")
        return Csv(kind, names, delimiter, table.inputs.separator)
    return Parquet(kind, names, table.schema(keep))


def _survey(table: Table, form: Format, options: PredictOptions, window: int) -> Survey:
    """Look through all of the data; what is wrong with them is told here."""
    with once_said():
        survey = table.survey(
            window,
            options.empty == "skip",
            lambda rows: form.look([_kept(row, options.keep) for row in rows]),
        )
    columns = survey.columns if options.keep is None else options.keep
    for name in columns:
        if name not in survey.columns:
            raise UserError(
                f"keep: {table.name} has no column {name!r}, only {listed(survey.columns)}"
                f"{nearest(name, survey.columns)}"
            )
        if name in form.said:
            raise UserError(
                f"{table.name} has a column {name!r} already: call it otherwise, or name the "
                "columns that are to be written too, keep=[COLUMN]"
            )
    return survey


def _predict(
    asking: Asking, table: Table, survey: Survey, options: PredictOptions, parts: Parts
) -> None:
    """Write the parts that are missing."""
    done = len(parts.paths())
    if done * parts.window >= survey.rows:
        return
    quiet()
    predictor = asking.load()
    rows = itertools.islice(table.rows(), done * parts.window, None)
    bar = tqdm(
        total=survey.rows,
        initial=done * parts.window,
        desc="predicting",
        unit="row",
        disable=None,  # where stderr is no terminal
        dynamic_ncols=True,
    )
    try:
        with bar, once_said():
            for number, window in enumerate(windows(rows, parts.window), start=done):
                said = _said(predictor, asking.inputs, window, options.batch_size)
                kept = [_kept(row, options.keep) for row in window]
                parts.add(number, [{**row, **more} for row, more in zip(kept, said, strict=True)])
                bar.update(len(window))
    except KeyboardInterrupt:
        there = min(len(parts.paths()) * parts.window, survey.rows)
        text = f"{there:,} of {survey.rows:,} rows are done: the same command goes on from there"
        print(text, file=sys.stderr)
        raise


def _said(
    predictor: Predictor, inputs: Inputs, rows: Sequence[Row], batch_size: int
) -> list[dict[str, Any]]:
    """What is said of each row, as columns; nothing of one with nothing to read."""
    full = [i for i, row in enumerate(rows) if inputs.is_empty(row) is None]
    examples = [inputs.example(rows[i], rows[i].place) for i in full]
    try:
        answers = predictor.answers(examples, batch_size)
    except UserError as error:
        raise UserError(f"from {rows[0].place} to {rows[-1].place}: {error}") from error
    found: list[dict[str, Any]] = [{} for _ in rows]
    for i, answer in zip(full, answers, strict=True):
        found[i] = as_columns(answer)
    return found


def _kept(row: Row, keep: tuple[str, ...] | None) -> dict[str, Any]:
    return dict(row) if keep is None else {name: row[name] for name in keep if name in row}


if __name__ == "__main__":
    main()
