"""Keep a JSON file of the stages that a run has finished, and of what they found.

Tensors among that lie in a safetensors file a stage beside it, ``found-STAGE.safetensors``, whose
checksum the JSON names.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilevel.distributed import World, from_first
from bilevel.errors import UserError
from bilevel.reading import json_object
from experiments.cli.resume import check_same
from experiments.cli.writing import write_atomically
from experiments.config import stored
from experiments.config.schema import SECTIONS
from experiments.results.shape import check_stages
from experiments.training import stage_tensors
from experiments.training.same_data import check_data

__all__ = ["Journal", "check_config", "processes_of"]


def check_config(path: Path, config: dict[str, Any], data: Mapping[str, str] | None = None) -> None:
    """Refuse to take a finished run of another configuration, or of other data, for this one.

    Args:
        path: the journal of the run in a folder; nothing is checked where there is none.
        config: of the run that is asked for.
        data: checksums of its data by split; None where they have not been read.

    Raises:
        UserError: names what differs.
    """
    if path.is_file():
        saved = json_object(path, needs=("config",))
        _check_config(path.parent.parent, saved["config"], config)
        check_data(path.parent.parent, _data(saved, path), data or {})


class Journal:
    """The finished stages of the run in a folder.

    Args:
        path: the file.
        config: the run's configuration, which a file that is there must have too.
        resume: take over what the file says; otherwise it must not be there.
        processes: of which the run's batches are made.
        data: checksums of the run's data by split, which those of a file that is there must be.

    Attributes:
        finished: stage -> ``{"outcome", "summary"}``, in order, plain JSON data; and ``"tensors"``,
            the checksum of their file, where there are some in what it found.

    Raises:
        UserError: the file is of another run, or not readable; tensors are missing or damaged.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        resume: bool,
        processes: int = 1,
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.processes = processes
        self.data = dict(data or {})
        self.finished: dict[str, dict[str, Any]] = {}
        self._found: dict[str, Any] = {}
        if not resume or not path.is_file():
            self._write()
            return
        saved = json_object(path, needs=("config", "stages"))
        check_stages(saved, str(path))
        if saved.get("sha256", _digest(saved)) != _digest(saved):
            raise UserError(f"{path} is damaged: it is not what was written; start the run afresh")
        began = _data(saved, path)
        _check_config(path.parent.parent, saved["config"], config, began)
        self.data |= began
        check_data(path.parent.parent, began, data or {})
        self.finished = saved["stages"]
        self._found = {name: self._read(name, entry) for name, entry in self.finished.items()}

    def finish(self, name: str, outcome: Any, summary: dict[str, Any] | None) -> None:
        """Note a stage's end.

        Args:
            name: the stage's.
            outcome: what it found, for the stage after it: plain JSON data, and tensors.
            summary: what it says of itself, plain JSON data; None where there was nothing to train.

        Raises:
            StorageError: the disk is full, or the folder not writable.
        """
        plain, tensors = stage_tensors.part(outcome)
        entry = {"outcome": plain, "summary": summary}
        if tensors:  # first: a journal that names them is only there once they are
            entry["tensors"] = stage_tensors.save(self._tensors(name), tensors)
        self.finished[name] = entry
        self._write()
        self._found[name] = stage_tensors.put_back(json.loads(json.dumps(plain)), tensors)

    def agree(self, name: str, world: World) -> None:
        """Take over what the first process has found in a stage just finished; as :meth:`share`."""
        self._found[name] = from_first(self._found[name], world)

    def found(self, name: str) -> Any:
        """What a finished stage found, the same whether this process ran it or one before."""
        return self._found[name]

    def share(self, world: World) -> None:
        """Take over what the first process knows, on all of them; each has to come here."""
        self.finished, self._found = from_first((self.finished, self._found), world)

    def _tensors(self, name: str) -> Path:
        return self.path.parent / f"found-{name}.safetensors"

    def _read(self, name: str, entry: dict[str, Any]) -> Any:
        if entry.get("tensors") is None:
            return entry["outcome"]
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{self.path} is damaged: {name!r} is no name of a stage")
        tensors = stage_tensors.load(self._tensors(name), entry["tensors"])
        try:
            return stage_tensors.put_back(entry["outcome"], tensors)
        except (LookupError, TypeError) as error:
            raise UserError(
                f"{self.path} is damaged: stage {name} names a tensor that "
                f"{self._tensors(name).name} does not have; start the run afresh"
            ) from error

    def _write(self) -> None:
        values: dict[str, Any] = {"config": self.config, "stages": self.finished}
        values["processes"] = self.processes
        values["data"] = self.data
        values["sha256"] = _digest(values)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(values, indent=1))


def processes_of(path: Path) -> int | None:
    """Of how many processes the batches are made of the run with this journal; None without one.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    found = json_object(path).get("processes", 1)  # older runs had one
    if not isinstance(found, int) or found < 1:
        raise UserError(f"{path} is damaged: processes is no number from 1; start the run afresh")
    return found


def _check_config(
    folder: Path, saved: Any, config: dict[str, Any], sums: Mapping[str, str] | None = None
) -> None:
    """Raise UserError if the run in a folder has another configuration.

    Args:
        folder: the run's.
        saved: its configuration.
        config: of the run that is asked for.
        sums: checksums by which the places of data and models are checked, and not by their names.
    """
    saved = stored.given_now(saved, config)
    from_python = isinstance(config.get("method"), str)  # which is a group of options elsewhere
    if from_python and isinstance(saved, dict) and isinstance(saved.get("engine"), str):
        saved, config = _comparable(saved, config)
    check_same(folder, saved, config, sums=sums)


def _comparable(
    saved: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of two configurations of runs from Python that can be held against each other.

    An older one says less, and its training and engine each in one text, which may not be readable.
    """
    read = {key: _literal(text) if key in SECTIONS else text for key, text in saved.items()}
    both = [
        key
        for key in read.keys() & config.keys()
        if isinstance(read[key], dict) == isinstance(config[key], dict)
    ]
    return {key: read[key] for key in both}, {key: config[key] for key in both}


def _literal(text: Any) -> Any:
    """The Python value that a text spells out; the text itself where that is no plain one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _data(saved: dict[str, Any], path: Path) -> dict[str, str]:
    """The checksums of a journal; none of an older run's."""
    found = saved.get("data", {})
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise UserError(f"{path} is damaged: data is no checksum of each split")
    return found


def _digest(values: dict[str, Any]) -> str:
    """Of what a journal says, however it is laid out."""
    said = {key: values[key] for key in ("config", "stages")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
