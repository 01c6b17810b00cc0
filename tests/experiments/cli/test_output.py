"""A reader that has gone away does not end a program."""

import os
import sys

import pytest

from experiments.cli.output import go_on_unread


def test_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "__stdout__", stream)
        go_on_unread()
        print("read", flush=True)
        assert os.read(reading, 9) == b"read\n"
        os.close(reading)
        for _ in range(3):
            print("x" * 100_000)
        sys.stdout.flush()


def test_streams_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout  # pytest's
    go_on_unread()
    assert sys.stdout is before
