"""Write texts into tables that other programs read: what was read from a folder stays a text.

In Markdown a ``|`` or a line break would end a cell, and ``<`` begin HTML. A spreadsheet takes a
cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, which may run a program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bilevel.errors import printable

__all__ = ["csv_cell", "markdown_cell", "markdown_table"]

FORMULA = re.compile(r"[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def markdown_cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    text = printable(" ".join(text.split())).replace("<", "&lt;").replace("](", "]\\(")
    # A backslash before the line would be taken for its escape.
    return re.sub(r"(\\*)\|", r"\1\1\\|", text)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A table of cells, the head first, padded so that it reads well on a terminal too."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def csv_cell(value: Any) -> Any:
    """A value as a cell of a spreadsheet: numbers stay, a text is never a formula."""
    if not isinstance(value, str):
        return value
    return (
        f"'{printable(value)}" if FORMULA.match(value) and not _number(value) else printable(value)
    )


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
