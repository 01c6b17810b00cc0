"""Begin and end every program that takes ``name=value`` words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from experiments.cli.command_line import explain, one_sentence

__all__ = ["program"]


class Main(Protocol):
    """A program; without words it reads the command line."""

    def __call__(self, words: Sequence[str] | None = None) -> None: ...


def program(page: Callable[[], str]) -> Callable[[Callable[[list[str]], None]], Main]:
    """Make a program of a function that takes the command line's words.

    ``--help`` prints what ``page`` returns and nothing else is done; a mistake of the user is
    one line on stderr and exit status 2.
    """

    def wrap(body: Callable[[list[str]], None]) -> Main:
        def main(words: Sequence[str] | None = None) -> None:
            """The program."""
            given = list(sys.argv[1:] if words is None else words)
            if {"--help", "-h"} & set(given):
                explain(page())
                return
            with one_sentence():
                body(given)

        return main

    return wrap
