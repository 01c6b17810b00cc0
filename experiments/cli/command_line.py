"""Take a command line apart, and end a program in one sentence when it is wrong."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bilevel import launcher
from bilevel.errors import UserError, nearest
from experiments.cli import places, ranks, stopping
from experiments.cli.messages import USER_ERRORS, refused, sentence
from experiments.cli.output import go_on_unread
from experiments.cli.repeated_names import check_names

__all__ = ["FAILURE", "CommandLine", "explain", "fail", "one_sentence", "refuse_options"]

FAILURE = 2
FULL_ERROR = "HYDRA_FULL_ERROR"
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--info", "-i"),
    *("--config-dir", "-cd"),
)


def explain(text: str) -> None:
    """Print what a program's help says; whoever reads it may have seen enough half-way."""
    go_on_unread()
    if launcher.rank() == 0:
        print(text, flush=True)


@contextmanager
def one_sentence(several: bool = False) -> Iterator[None]:
    """Turn a mistake of the user into one line on stderr and exit status 2.

    So are a full or read-only disk, and Ctrl-C with its own status. Other exceptions are defects
    and keep their traceback; ``HYDRA_FULL_ERROR=1`` in the environment keeps every traceback. Of
    several processes one tells it (:mod:`experiments.cli.ranks`).

    Args:
        several: the program runs on several processes too; others refuse to.
    """
    go_on_unread()
    try:
        if not several:
            ranks.refuse("this program")
        yield
    except USER_ERRORS as error:
        if os.environ.get(FULL_ERROR) == "1":
            raise
        fail(sentence(error), error=error)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(FULL_ERROR) == "1":
            raise
        # A signal in the middle of an import may come out as another exception.
        if isinstance(error, KeyboardInterrupt) or stopping.requested():
            fail("interrupted", stopping.status(), error)
        if (text := refused(error)) is None:
            if not ranks.may_tell(f"{type(error).__name__}: {error}", interrupted=False):
                raise SystemExit(FAILURE) from error
            raise
        fail(text, error=error)


def fail(text: str, status: int = FAILURE, error: BaseException | None = None) -> NoReturn:
    """Say what is wrong and exit; of several processes one says it.

    Args:
        text: what.
        status: to exit with.
        error: what was met.
    """
    if ranks.may_tell(text, status != FAILURE, error):
        print(f"error: {text}", file=sys.stderr, flush=True)
    raise SystemExit(status)


def refuse_options(words: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse ``run=DIR`` where a program takes ``DIR`` as it stands, unless it is so called.

    Args:
        words: as given.
        folders: that are among them.

    Raises:
        UserError: says the folder alone; or a word is empty, which would be this folder here.
    """
    if "" in words or "--out=" in words:
        raise UserError("a folder without a name is given (''): is a variable of the shell not set")
    for folder in folders:
        key, equals, value = str(folder).partition("=")
        if (
            equals
            and value
            and key in ("run", "runs", "folder", "dir", "out")
            and not folder.exists()
        ):
            given = "--out " * (key == "out") + shlex.quote(value)
            raise UserError(f"{folder}: this program takes folders as they are, {given}")


@dataclass(frozen=True)
class CommandLine:
    """A Hydra command line taken apart.

    Attributes:
        overrides: the ``key=value`` words, those of folders as :mod:`.places` writes them.
        config_dir: of ``--config-dir``, with the user's own configuration files and modules.
        multirun: whether ``-m`` is given.
        flags: every other flag (``--help``, ``--cfg job``, ...).
        wants_help: whether ``--help`` is among them.
    """

    overrides: list[str]
    config_dir: str | None
    multirun: bool
    flags: list[str]
    wants_help: bool = False

    @classmethod
    def parse(cls, words: Sequence[str]) -> CommandLine:
        """Take a command line (without the program's name) apart.

        Raises:
            UserError: a flag that does not exist.
        """
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config-dir", "-cd")
        parser.add_argument("--multirun", "-m", action="store_true")
        parser.add_argument("--help", "-h", action="store_true")
        parser.add_argument("--run", "-r", action="store_true")  # which is what happens anyhow
        known, rest = parser.parse_known_args(list(words))
        flags = [word for word in rest if word.startswith("-")]
        overrides = [word for word in rest if not word.startswith("-")]
        for flag in flags:
            if flag.partition("=")[0] not in FLAGS:
                raise UserError(
                    f"unknown flag {flag}; options are given as name=value, and --help lists them"
                    f"{nearest(flag, FLAGS)}"
                )
        folder = None if known.config_dir is None else os.path.expanduser(known.config_dir)
        for word in overrides:
            check_names(word)
        overrides = places.settled(overrides, known.multirun)
        return cls(overrides, folder, known.multirun, flags, known.help)

    @classmethod
    def of_one(cls, words: Sequence[str]) -> CommandLine:
        """Take the command line of a program that does one thing apart: no sweep, no flag of Hydra.

        Raises:
            UserError: such a flag, which would do nothing.
        """
        line = cls.parse(words)
        given = [*(["--multirun (-m)"] if line.multirun else []), *line.flags]
        if given:
            raise UserError(
                f"{given[0]} is for experiments.run: this program takes --config-dir and --help, "
                "and options as name=value"
            )
        return line

    def value(self, key: str) -> str | None:
        """The last value given to ``key``, None if it is not on the command line."""
        pairs = [word.lstrip("+").partition("=") for word in self.overrides]  # Hydra reads ++key=
        found = [given for name, equals, given in pairs if equals and name == key]
        if not found:
            return None
        return places.read(found[-1]) if places.is_place(key) else found[-1]
