"""Keep a small JSON file of the stages that a run has finished, and of what they found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from bilevel.reading import json_object
from experiments.cli.resume import check_same
from experiments.cli.writing import write_atomically
from experiments.config import stored
from experiments.results.shape import check_stages

__all__ = ["Journal"]


class Journal:
    """The finished stages of the run in a folder.

    Args:
        path: the file.
        config: the run's configuration, which a file that is there must have too.
        resume: take over what the file says; otherwise it must not be there.

    Attributes:
        finished: stage -> ``{"outcome", "summary"}``, in order.

    Raises:
        UserError: the file is of another run, or not readable.
    """

    def __init__(self, path: Path, config: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.config = config
        self.finished: dict[str, dict[str, Any]] = {}
        if not resume or not path.is_file():
            self._write()
            return
        saved = json_object(path, needs=("config", "stages"))
        check_stages(saved, str(path))
        if saved.get("sha256", _digest(saved)) != _digest(saved):
            raise UserError(f"{path} is damaged: it is not what was written; start the run afresh")
        check_same(path.parent.parent, stored.given_now(saved["config"], config), config)
        self.finished = saved["stages"]

    def finish(self, name: str, outcome: Any, summary: dict[str, Any] | None) -> None:
        """Note a stage's end; both values must be plain JSON data.

        Args:
            name: the stage's.
            outcome: what it found, for the stage after it.
            summary: what it says of itself; None where there was nothing to train.
        """
        self.finished[name] = {"outcome": outcome, "summary": summary}
        self._write()

    def _write(self) -> None:
        values: dict[str, Any] = {"config": self.config, "stages": self.finished}
        values["sha256"] = _digest(values)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(values, indent=1))


def _digest(values: dict[str, Any]) -> str:
    """Of what a journal says, however it is laid out."""
    said = {key: values[key] for key in ("config", "stages")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
