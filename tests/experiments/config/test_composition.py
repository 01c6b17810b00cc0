"""A configuration as plain values, which a run remembers in a file."""

import json
from pathlib import Path

import pytest

from experiments.config.composition import compose_config, plain
from experiments.training.finished_stages import Journal

NUMBERED = {
    "sources": ["task=classification", "task.sources={2: a.csv, 10: b.csv, web: c.csv}"],
    "classes": ["train.class_weights={2: 1, 10: 4}"],
    "some classes": ["train.class_weights={2: 1, neg: 4}"],
}


@pytest.mark.parametrize("which", NUMBERED)
def test_names_that_are_numbers_are_read_back_as_they_were(which: str, tmp_path: Path) -> None:
    """A source, or a class, may be called 10, which YAML reads as a number and JSON does not."""
    values = plain(compose_config(NUMBERED[which]))
    assert json.loads(json.dumps(values)) == values
    Journal(tmp_path / "checkpoints" / "stages.json", values, resume=False)
    again = Journal(tmp_path / "checkpoints" / "stages.json", values, resume=True)
    assert again.finished == {}
