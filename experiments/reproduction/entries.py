"""Read the papers' tables and figures, as conf/experiment/PAPER/NAME.yaml has them.

An entry has blocks, one a model: its tasks (with the columns that each gives), its rows (a method
with settings, or the reason why a published row is not run) and the published figures. Settings are
dotted options of ``experiments.run``. Later ones win: `AS_PUBLISHED`, recipe, recipe of the task,
block, task, row, row of the task. A recipe (conf/experiment/recipes) holds settings that several
entries share. A train.lr that rows share is for those whose method takes it; a row whose method has
a rate of its own (``method.optimizer.lr``: full fine-tuning, adapters) must not set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed, nearest
from experiments.reproduction import rates
from experiments.reproduction.checks import Reader
from experiments.reproduction.published import Published

__all__ = ["AS_PUBLISHED", "Block", "Column", "Entry", "Row", "TaskPart", "folder", "load", "names"]

RECIPES = "recipes"
AVERAGE = "avg"
# The papers' figures are of the last weights, and show the test loss over the steps.
AS_PUBLISHED = {"engine.keep": "last", "engine.evaluate_test": "true"}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One number of a run, times ``factor``.

    Attributes:
        metric: as in the report's rows; None for the primary one.
        file: what another program left in the run's folder, a JSON file with the number; then
            ``metric`` is its place in there (``transfers.overall.bleu``).
    """

    metric: str | None
    factor: float = 1.0
    file: str | None = None


@dataclass(frozen=True)
class TaskPart:
    """A task of a block: its settings and its columns by name."""

    settings: Settings
    columns: dict[str, Column]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        method: option of conf/method; None for a row that is only quoted.
        settings: of all tasks; tasks: of some, by name.
        grid: for method=lora_grid: one option and its values, each a run of its own.
        only: tasks that it is run on; None for all of the block.
        not_run: why it is only quoted.
    """

    method: str | None
    settings: Settings
    tasks: dict[str, Settings]
    grid: dict[str, list[Any]]
    only: list[str] | None
    not_run: str | None


@dataclass(frozen=True)
class Block:
    """One model's part of a table.

    Attributes:
        table: the entry whose folder its runs are in; another one's where runs are shared.
        caption: tells blocks of one model apart.
    """

    table: str
    model: str
    caption: str
    settings: Settings
    recipe: dict[str, Settings]
    tasks: dict[str, TaskPart]
    rows: dict[str, Row]
    published: list[Published]
    average: bool

    def columns(self) -> list[tuple[str, str, Column]]:
        """(task, name, what it is) of every column, in order."""
        return [(task, n, c) for task, part in self.tasks.items() for n, c in part.columns.items()]

    def words(self, row: Row, task: str) -> Settings:
        """Settings of a run, the later ones over the earlier."""
        found = {
            **AS_PUBLISHED,
            **self.recipe.get("", {}),
            **self.recipe.get(task, {}),
            **self.settings,
            **self.tasks[task].settings,
            **row.settings,
            **row.tasks.get(task, {}),
        }
        if row.method is not None and rates.own(row.method, found):
            found.pop(rates.SHARED, None)
        return found


@dataclass(frozen=True)
class Entry:
    """A table or figure.

    Attributes:
        name: PAPER/NAME.
        kind: table | figure.
        number: "Table 1"; None where it is not known.
        figure: of a figure: file names (a pattern) of the project's own that show the same.
        unknown: settings that the paper does not tell, or that could not be checked.
        notes: what else keeps ours and theirs apart.
    """

    name: str
    paper: str
    number: str | None
    kind: str
    title: str
    seeds: list[int]
    blocks: list[Block]
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figure: str | None = None

    @property
    def heading(self) -> str:
        """One line that says what this is."""
        number = self.number or f"{self.kind} of unknown number"
        return f"{self.paper}, {number}: {self.title}"


def folder() -> Path:
    """Where the entries are."""
    return Path(str(resources.files("conf"))) / "experiment"


def names(root: Path | None = None) -> list[str]:
    """Names of all entries, in order."""
    root = root or folder()
    found = (path.relative_to(root).with_suffix("") for path in root.glob("*/*.yaml"))
    return sorted(path.as_posix() for path in found if path.parts[0] != RECIPES)


def load(name: str, root: Path | None = None) -> Entry:
    """Read an entry.

    Raises:
        UserError: there is none of this name, or its file is not as it should be.
    """
    root = root or folder()
    known = names(root)
    if name not in known:
        raise UserError(
            f"unknown table {name!r}: table=list shows them all{nearest(name, known)}"
            if known
            else f"there are no tables in {root}"
        )
    top = Reader.file(root / f"{name}.yaml")
    kind = top.choice("kind", ("table", "figure"), default="table")
    entry = Entry(
        name=name,
        paper=top.text("paper"),
        number=top.text("number", optional=True),
        kind=kind,
        title=top.text("title"),
        seeds=top.integers("seeds"),
        blocks=[],
        unknown=top.texts("unknown"),
        notes=top.texts("notes"),
        figure=top.text("figure", optional=kind == "table"),
    )
    blocks = [block for shared in top.one_or_more("runs_of") for block in _shared(shared, root)]
    blocks += [_block(name, part, root) for part in top.parts("blocks", optional=bool(blocks))]
    top.end()
    return replace(entry, blocks=blocks)


def _block(table: str, part: Reader, root: Path) -> Block:
    tasks = {}
    for task, values in part.mapping("tasks").items():
        reader = part.at(f"tasks.{task}", values or {})
        columns = reader.mapping("columns", optional=True)
        # Scores of classification are shares; the papers print them in percent.
        found = {name: _column(reader, column) for name, column in columns.items()}
        tasks[task] = TaskPart(
            reader.settings("settings"), found or {task: Column(None, factor=100.0)}
        )
        reader.end()
    rows = {
        label: _row(part.at(f"rows.{label}", values), tasks)
        for label, values in part.mapping("rows").items()
    }
    block = Block(
        table=table,
        model=part.text("model"),
        caption=part.text("caption", optional=True) or "",
        settings=part.settings("settings"),
        recipe=_recipe(part.text("recipe", optional=True), root),
        tasks=tasks,
        rows=rows,
        published=[],
        average=part.flag("average"),
    )
    block.published.extend(_published(part.parts("published", optional=True), block))
    part.end()
    return block


def _column(reader: Reader, values: Any) -> Column:
    if isinstance(values, str):
        return Column(values)
    part = reader.at("columns", values)
    file = part.text("file", optional=True)
    metric = part.text("metric", optional=file is None)
    column = Column(metric, part.number("factor", default=1.0), file)
    part.end()
    return column


def _row(part: Reader, tasks: Mapping[str, TaskPart]) -> Row:
    row = Row(
        method=part.text("method", optional=True),
        settings=part.settings("settings"),
        tasks={task: dict(v) for task, v in part.mapping("tasks", optional=True).items()},
        grid={key: list(v) for key, v in part.mapping("grid", optional=True).items()},
        only=part.texts("only") or None,
        not_run=part.text("not_run", optional=True),
    )
    part.end()
    if (row.method is None) == (row.not_run is None):
        raise part.error("needs either method or not_run")
    if row.grid and row.method != "lora_grid":
        raise part.error("has a grid, which only method lora_grid has")
    for task in [*row.tasks, *(row.only or [])]:
        if task not in tasks:
            raise part.error(f"names the task {task}, which its block does not have")
    for own in row.tasks.values() or [{}]:
        if row.method is not None and (wrong := rates.unused(row.method, {**row.settings, **own})):
            raise part.error(wrong)
    return row


def _published(parts: list[Reader], block: Block) -> list[Published]:
    names_ = [name for _, name, _ in block.columns()]
    found = []
    for reader in parts:
        published = Published.read(reader)
        if published.row not in block.rows:
            raise reader.error(f"it is of {published.row!r}, no row of this block")
        for column in published.values:
            if column not in (*names_, AVERAGE):
                raise reader.error(f"{published.row} has {column!r}, no column of this block")
        found.append(published)
    return found


def _recipe(name: str | None, root: Path) -> dict[str, Settings]:
    """Settings by task, those of all tasks under the empty name."""
    if name is None:
        return {}
    path = root / RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = [p.stem for p in (root / RECIPES).glob("*.yaml")]
        raise UserError(f"there is no recipe {name!r}: known are {listed(sorted(known))}")
    top = Reader.file(path)
    found = {"": top.settings("settings")}
    found |= {task: dict(values) for task, values in top.mapping("tasks", optional=True).items()}
    top.end()
    return found


def _shared(shared: Reader, root: Path) -> list[Block]:
    """Blocks of another entry, cut to some rows and tasks; columns and figures may be others."""
    other = load(shared.text("table"), root)
    rows, tasks, models = (shared.texts(key) for key in ("rows", "tasks", "models"))
    measure = shared.text("measure", optional=True)
    own = shared.parts("published", optional=True)
    shared.end()
    chosen_blocks = [block for block in other.blocks if not models or block.model in models]
    there = {row for block in chosen_blocks for row in block.rows}
    known = {task for block in chosen_blocks for task in block.tasks}
    if not chosen_blocks or set(rows) - there or set(tasks) - known:
        raise shared.error(f"names models, rows or tasks that {other.name} does not have")
    blocks = []
    for block in chosen_blocks:
        kept = {t: part for t, part in block.tasks.items() if not tasks or t in tasks}
        if measure:
            kept = {t: replace(part, columns={t: Column(measure)}) for t, part in kept.items()}
        chosen = {label: row for label, row in block.rows.items() if not rows or label in rows}
        if not kept or not chosen:
            continue
        cut = replace(block, tasks=kept, rows=chosen, published=[], average=False)
        if own:
            cut.published.extend(_published(own, cut))
        elif not measure:
            cut.published.extend(p for old in block.published if (p := old.only(chosen, kept)))
        blocks.append(cut)
    return blocks
