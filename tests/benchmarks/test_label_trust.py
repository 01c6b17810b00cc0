"""The benchmark of wrong labels: what it asks for, what it reads back, its table."""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks import label_trust
from benchmarks.label_trust import ESTIMATED, NOISY, measure, read, table
from experiments.answers import CLASSES, Answers
from experiments.metrics.crossed import crossed
from experiments.suspecting import table_file
from experiments.suspecting.find import Found
from experiments.suspecting.scores import Scores
from experiments.tasks.examples import Origin
from tests.benchmarks.asked import Asked


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"), [("sst2", "symmetric"), ("sst2", "one_sided"), ("mnli", "symmetric")]
)
def test_the_noisy_run_is_asked_for_by_options_that_there_are(
    name: str, kind: str, weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)

    def stop(*_: object) -> None:
        raise StoppedError

    monkeypatch.setattr(label_trust.SavedRun, "open", stop)
    settings = {"task": name, "size": 100, "trusted": 20, "noise": "0.4", "kind": kind}
    options = argparse.Namespace(data=tmp_path, weights=weights, **settings)
    with pytest.raises(StoppedError):
        measure(tmp_path / "seed7", options, 7)
    task = asked.plan().task
    assert asked.plan().chosen == ("example_weights" if weights else "lora")  # the last one
    assert task.name == name
    assert (task.max_train, task.trusted) == (120, 20)
    assert (task.label_noise, task.noise_kind) == (0.4, kind)
    assert (task.subset_seed, task.noise_seed, asked.plan().seed) == (7, 7, 7)


class Example(NamedTuple):
    text: str
    label: int


NAMED = Answers(CLASSES, 2, ("neg", "pos"))


@dataclass(frozen=True)
class Task:
    """As much of a task as has labels that are right or wrong."""

    train: list[Example]
    truth: list[int]
    answers: Answers = NAMED

    def origins(self) -> list[Origin]:
        return [Origin("train", 10 + i, truth=label) for i, label in enumerate(self.truth)]


TASK: Any = Task([Example("a", 0), Example("b", 0), Example("c", 1)], [0, 1, 1])


def test_a_table_is_read_back_in_the_order_of_the_data(tmp_path: Path) -> None:
    """It is sorted by a score, and says classes by name; without a proposal the label stays."""
    columns = {"trusted": np.array([0.5, 2.5, 0.25]), "pooled": np.array([0.1, 0.9, 0.2])}
    found = Found(Scores(columns, 1), [1, 1, None], np.array([0.8, 0.8, 0.6]))
    table_file.write(TASK, found, "pooled", tmp_path / "suspects.csv")
    (tmp_path / ESTIMATED).write_text("1")
    found = read(tmp_path, TASK)
    assert found.proposed == [1, 1, 1]
    assert found.sure == pytest.approx([0.8, 0.8, 0.6])
    assert found.scores.estimated == 1
    for name, column in columns.items():
        np.testing.assert_allclose(found.scores.columns[name], column)


def write_seed(folder: Path, pooled: list[float], runs: dict[str, list[int]]) -> None:
    """Of four training examples, the first two wrong; runs by the test examples that are right."""
    folder.mkdir(parents=True)
    with (folder / "suspects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "given", "true", "pooled"])
        pairs = zip(("1", "0", "1", "0"), ("0", "1", "1", "0"), pooled, strict=True)
        writer.writerows([number, *row] for number, row in enumerate(pairs))
    for name, right in runs.items():
        (folder / name).mkdir()
        (folder / name / "result.json").write_text("{}")
        rows = [{"label": 1, "prediction": one} for one in right]
        (folder / name / "predictions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_the_table_has_the_area_and_what_the_models_gain(tmp_path: Path) -> None:
    setting = tmp_path / "symmetric_0.4_1000_50"
    runs = {NOISY: [1, 0, 0, 0], "drop_pooled": [1, 1, 0, 0]}
    write_seed(setting / "seed0", [0.9, 0.8, 0.1, 0.2], runs)
    write_seed(setting / "seed1", [0.9, 0.1, 0.1, 0.2], {**runs, "drop_pooled": [1, 1, 1, 0]})
    (setting / "seed0" / "oracle").mkdir()  # is under way
    (setting / "seed1" / "weight_area.json").write_text("0.75")
    lines = list(table(tmp_path))
    assert lines[:3] == [
        "symmetric_0.4_1000_50, 2 seeds: AUC",
        "    pooled: 0.812 (1.000 0.625)",
        "    weight: 0.750 (0.750)",
    ]
    assert "    drop_pooled: accuracy 0.625 (0.500 0.750)" in lines
    gain = crossed(np.array([[0, 1, 0, 0], [0, 1, 1, 0]], dtype=float))
    expected = f"    drop_pooled - noisy: {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    assert expected in lines
    assert not [line for line in lines if "oracle" in line]


def test_the_least_weight_is_the_most_suspect(tmp_path: Path) -> None:
    """The second example is wrong."""
    for weights, expected in (([0.9, 0.1, 0.8], 1.0), ([0.9, 0.85, 0.8], 0.5)):
        (tmp_path / "example_weights.json").write_text(json.dumps({"weights": weights}))
        assert label_trust.weight_area(tmp_path, TASK) == expected


def test_the_oracle_has_the_labels_that_they_had() -> None:
    assert [example.label for example in label_trust._right(TASK).train] == TASK.truth
