"""The one sentence in which a program ends that refuses its words."""

from collections.abc import Callable

import pytest


def refused(
    program: Callable[[list[str]], None], words: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """What it says, with nothing printed before."""
    with pytest.raises(SystemExit) as stop:
        program(words)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    return said.err
