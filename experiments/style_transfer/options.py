"""Read the options of the program."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bilevel.errors import UserError, listed, nearest
from experiments.cli.command_line import CommandLine
from experiments.results.finished_run import take
from experiments.style_transfer.sentences import Columns
from experiments.tasks.from_files import check_distinct
from experiments.tasks.reading import formality
from experiments.tasks.reading.dialect import Dialect

__all__ = ["Options"]

INSTRUCTION = (
    "Rewrite this {source} sentence as a {target} one. Keep what it is about, and change as few "
    "words as you can."
)
DEFAULTS: dict[str, str | None] = {
    "run": None,
    "classifier": None,
    "classifier_model": None,
    "data_dir": None,
    "language_model": None,
    "max_test": None,
    "out": None,
    "styles": None,
    "instruction": INSTRUCTION,
    "classifier_labels": None,
    "text_column": Columns().text,
    "label_column": Columns().label,
    "reference_column": Columns().reference,
    "encoding": None,
    "delimiter": None,
    "quoting": None,
}
# Names of the data's labels 0 and 1, and the classifier's own labels of these.
SENTIMENT = {"styles": "negative,positive", "classifier_labels": "0,1"}
FORMALITY = dict.fromkeys(SENTIMENT, ",".join(formality.STYLES))
OF_THE_RUN = ("task.", "model.")


@dataclass(frozen=True)
class Options:
    """The program's options; its help says what each means.

    Attributes:
        overrides: of the run's own configuration.
    """

    run: str
    classifier: str
    classifier_model: str | None
    data_dir: str
    language_model: str | None
    max_test: int | None
    out: Path
    styles: tuple[str, str]
    instruction: str
    classifier_labels: tuple[str, str]
    columns: Columns
    dialect: Dialect
    overrides: tuple[str, ...]

    @classmethod
    def parse(cls, line: CommandLine) -> Options:
        """Read a command line.

        Raises:
            UserError: an option is unknown, missing or no such value.
        """
        own, rest = take(line.overrides, **DEFAULTS)
        for word in rest:
            key = word.partition("=")[0]
            if not key.startswith(OF_THE_RUN):
                raise UserError(
                    f"unknown option {key!r}: allowed are {listed(DEFAULTS)}, task.KEY and "
                    f"model.KEY{nearest(key, DEFAULTS)}"
                )
        needed = {key: own[key] or "" for key in ("run", "classifier", "data_dir")}
        for key, value in needed.items():
            if not value:
                raise UserError(f"{key}=DIR is needed; --help says what it is")
        columns = Columns(*(own[f"{name}_column"] or "" for name in Columns._fields))
        check_distinct({f"{name}_column": value for name, value in columns._asdict().items()})
        usual = FORMALITY if formality.is_there(needed["data_dir"]) else SENTIMENT
        own |= {key: own[key] or value for key, value in usual.items()}
        return cls(
            **needed,
            classifier_model=own["classifier_model"] or None,
            language_model=own["language_model"] or None,
            max_test=_count(own["max_test"]),
            out=Path(own["out"] or Path(needed["run"]) / "style_transfer"),
            styles=_two(own, "styles"),
            instruction=own["instruction"] or "",
            classifier_labels=_two(own, "classifier_labels"),
            columns=columns,
            dialect=_dialect(own),
            overrides=tuple(rest),
        )

    def shown(self) -> dict[str, object]:
        """The options as JSON has them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = {"out": str(self.out), "columns": self.columns._asdict()}
        return {**values, **shown, "dialect": asdict(self.dialect)}


def _count(value: str | None) -> int | None:
    if value in (None, "", "null"):
        return None
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise UserError(f"max_test={value}: this must be an integer, 1 or more")
    return int(str(value))


def _dialect(own: dict[str, str | None]) -> Dialect:
    quoting = own["quoting"] or None
    if quoting not in (None, "true", "false"):
        raise UserError(f"quoting={quoting}: this must be true or false")
    given = None if quoting is None else quoting == "true"
    return Dialect(own["encoding"] or None, own["delimiter"] or None, given, prefix="")


def _two(own: dict[str, str | None], key: str) -> tuple[str, str]:
    names = [name.strip() for name in (own[key] or "").strip("[]").split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise UserError(f"{key}={own[key]}: two different names are needed, of 0 and of 1")
    return names[0], names[1]
