"""What a benchmark asks `experiments.run` for, in the place of the run."""

import subprocess
from typing import Any

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.spec import ModelSpec


def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let options that name weights be read where these are not installed, as in CI."""
    monkeypatch.setattr(ModelSpec, "source", lambda spec: spec.name)


class Asked:
    """Catches the command lines; ``words`` are those of the last one, ``plan`` what they mean."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: list[str] = []
        without_weights(monkeypatch)
        monkeypatch.setattr(subprocess, "run", self._caught)

    def _caught(self, command: list[str], **_: Any) -> None:
        assert command[1:3] == ["-m", "experiments.run"]
        self.words = command[3:]

    def plan(self) -> Plan:
        """An option that there is not, or a value that is not allowed, is told here."""
        return Plan.of(compose_config([w for w in self.words if not w.startswith("hydra.")]))
