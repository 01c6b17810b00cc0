"""Read GYAFC's files: sentences in informal and formal English, and what people made of them.

A folder (a domain of the corpus: Entertainment_Music, Family_Relationships) has folders train,
tune and test, each with the files ``informal`` and ``formal``, a sentence a line. In tune and test
there are rewrites too, line by line: ``formal.ref0`` to ``formal.ref3`` of ``informal``, and
``informal.ref0`` to ``informal.ref3`` of ``formal``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bilevel.errors import UserError
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.text import lines_of, read_text

__all__ = ["STYLES", "Sentence", "is_there", "read_split"]

STYLES = ("informal", "formal")


class Sentence(NamedTuple):
    """A sentence, its style (0 informal, 1 formal), and human rewrites in the other one."""

    text: str
    style: int
    references: tuple[str, ...] = ()


def is_there(data_dir: str, split: str = "test") -> bool:
    """Whether a folder has a split as GYAFC has them."""
    folder = Path(data_dir).expanduser() / split
    return all((folder / style).is_file() for style in STYLES)


def read_split(data_dir: str, split: str, dialect: Dialect | None = None) -> list[Sentence]:
    """The sentences of a split, informal ones first; rewrites where the folder has such files.

    Raises:
        UserError: a file is missing, empty, of another encoding, or of another length than its
            rewrites.
    """
    folder = Path(data_dir).expanduser() / split
    found = []
    for number, style in enumerate(STYLES):
        path = folder / style
        if not path.is_file():
            raise UserError(
                f"task.data_dir={data_dir} has no file {split}/{style}: it must be a folder of "
                "GYAFC with train, tune and test, such as Family_Relationships"
            )
        texts = _lines(path, dialect)
        other = STYLES[1 - number]
        rewrites = []
        for file in sorted(folder.glob(f"{other}.ref*")):
            if not file.is_file():  # a device would never end
                raise UserError(f"{file} is no file")
            lines = _lines(file, dialect)
            if len(lines) != len(texts):
                raise UserError(
                    f"{file} has {len(lines)} lines and {path} has {len(texts)}: they must match, "
                    "line by line"
                )
            rewrites.append(lines)
        for line, text in enumerate(texts):
            if not text:
                raise UserError(f"line {line + 1} of {path} is blank")
            references = tuple(lines[line] for lines in rewrites if lines[line])
            found.append(Sentence(text, number, references))
    return found


def _lines(path: Path, dialect: Dialect | None) -> list[str]:
    lines = [line.strip() for line in lines_of(read_text(path, dialect))]
    if lines == [""]:
        raise UserError(f"{path} is empty")
    return lines
