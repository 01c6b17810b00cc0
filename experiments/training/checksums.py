"""Read the checksums that a run's journal keeps of what the run began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilevel.reading import json_object
from experiments.config import stored

__all__ = ["DATA", "MODELS", "SOURCES", "is_split", "known", "moved"]

# Of data and models, which may lie elsewhere by now.
DATA = "task.data_dir"
MODELS = ("model.pretrained", "model.warm_start")
PLACES = (DATA, *MODELS)
SOURCES = "sources"  # those of the sources of the training examples, beside the names of splits


def is_split(name: str) -> bool:
    """Whether a checksum is of a split's examples: not of their sources or an option's file."""
    return "." not in name and name != SOURCES


def known(folder: Path) -> dict[str, str]:
    """Those of what an interrupted run began with.

    None of a finished run, which will not look at what there is, or of an older one.

    Raises:
        UserError: the journal is damaged.
    """
    path = folder / stored.JOURNAL
    if (folder / "result.json").is_file() or not path.is_file():
        return {}
    found = json_object(path).get("data")
    return found if isinstance(found, dict) else {}


def moved(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether an interrupted run is told other places of what it began with, and has its checksums.

    Args:
        folder: the run's.
        config: of the run as it is asked for now.
    """
    if not known(folder):
        return False
    saved = json_object(folder / stored.JOURNAL).get("config")
    return any(_at(saved, option) != _at(config, option) for option in PLACES)


def _at(config: Any, option: str) -> Any:
    for name in option.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config
