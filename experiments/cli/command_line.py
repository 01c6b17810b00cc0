"""What the command-line programs share: reading the command line, and ending in one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from bilevel.errors import UserError, nearest
from experiments.cli.messages import USER_ERRORS, sentence
from experiments.config import schema

__all__ = ["CommandLine", "compose_config", "fail", "one_sentence", "user_modules"]

FAILURE = 2
FULL_ERROR = "HYDRA_FULL_ERROR"
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--info", "-i"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn a mistake of the user into one line on stderr and exit status 2.

    Other exceptions are defects and keep their traceback; ``HYDRA_FULL_ERROR=1`` in the
    environment keeps every traceback.
    """
    wants_traceback = os.environ.get(FULL_ERROR) == "1"
    # Hydra would print several lines and exit by itself; with this it lets the exception through.
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    except USER_ERRORS as error:
        if wants_traceback:
            raise
        fail(error)
    finally:
        if not wants_traceback:
            del os.environ[FULL_ERROR]


def fail(error: Exception) -> NoReturn:
    """Say what is wrong and exit."""
    print(f"error: {sentence(error)}", file=sys.stderr)
    raise SystemExit(FAILURE)


@dataclass(frozen=True)
class CommandLine:
    """A Hydra command line taken apart.

    Attributes:
        overrides: the ``key=value`` words.
        config_dir: of ``--config-dir``, with the user's own configuration files and modules.
        multirun: whether ``-m`` is given.
        flags: every other flag (``--help``, ``--cfg job``, ...).
    """

    overrides: list[str]
    config_dir: str | None
    multirun: bool
    flags: list[str]

    @classmethod
    def parse(cls, words: Sequence[str]) -> CommandLine:
        """Take a command line (without the program's name) apart.

        Raises:
            UserError: a flag that does not exist.
        """
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config-dir", "-cd")
        parser.add_argument("--multirun", "-m", action="store_true")
        known, rest = parser.parse_known_args(list(words))
        flags = [word for word in rest if word.startswith("-")]
        overrides = [word for word in rest if not word.startswith("-")]
        for flag in flags:
            if flag.partition("=")[0] not in FLAGS:
                raise UserError(
                    f"unknown flag {flag}; options are given as name=value, and --help lists them"
                    f"{nearest(flag, FLAGS)}"
                )
        return cls(overrides, known.config_dir, known.multirun, flags)

    def value(self, key: str) -> str | None:
        """The last value given to ``key``, None if it is not on the command line."""
        found = [word.partition("=")[2] for word in self.overrides if word.startswith(f"{key}=")]
        return found[-1] if found else None

    def words(self, overrides: Sequence[str]) -> list[str]:
        """The command line again, with other overrides and without ``flags``."""
        words = ["--config-dir", self.config_dir] if self.config_dir else []
        words += ["--multirun"] if self.multirun else []
        return [*words, *overrides]


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """The configuration, Hydra's own part (``config.hydra``) included, without running anything."""
    schema.register()
    words = list(overrides)
    if config_dir is not None:
        words.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    with initialize_config_module(version_base="1.3", config_module="conf"):
        try:
            return compose("config", overrides=words, return_hydra_config=True)
        except ValueError as error:  # Hydra's word for method=null and the like
            raise UserError(sentence(error)) from error


def user_modules(sources: Iterable[Any]) -> list[str]:
    """Top-level modules beside the user's own configuration files, made importable.

    Args:
        sources: ``hydra.runtime.config_sources``: dicts of ``path``, ``schema`` and ``provider``.
    """
    modules: list[str] = []
    for source in sources:
        if source["schema"] != "file" or source["provider"] == "main":
            continue
        folder = Path(source["path"])
        found = [file.stem for file in folder.glob("*.py") if file.stem != "__init__"]
        found += [file.parent.name for file in folder.glob("*/__init__.py")]
        if found and str(folder) not in sys.path:
            sys.path.append(str(folder))
        modules += found
    return modules
