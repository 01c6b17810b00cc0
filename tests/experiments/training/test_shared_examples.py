"""Examples that stand in two splits, or twice in one of which a part is held out."""

import json
import logging
from pathlib import Path

import pytest

from bilevel import UserError
from experiments import ranks
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from experiments.training.shared_examples import say_shared
from tests.experiments.training.own_files import run, sentences, words, write


def rows(*numbers: int, label: int = 0) -> list[dict[str, object]]:
    return [{"input_ids": [2, number, 3], "labels": label} for number in numbers]


def test_each_pair_of_splits_is_held_against_each_other(caplog: pytest.LogCaptureFixture) -> None:
    """The label is no matter: a text with another label was trained on too."""
    tests = {"matched": rows(5, 7, 8, label=1), "mismatched": rows(9)}
    say_shared(rows(1, 2, 2, 5), rows(2, 6, 7), tests)
    assert [message.partition(" stand in the ")[::2] for message in caplog.messages] == [
        ("1 of the 3 validation examples", caplog.messages[0].partition(" stand in the ")[2]),
        ("1 of the 3 matched examples", caplog.messages[1].partition(" stand in the ")[2]),
        ("1 of the 3 matched examples", caplog.messages[2].partition(" stand in the ")[2]),
    ]
    places = [message.partition(" stand in the ")[2].split()[0] for message in caplog.messages]
    assert places == ["training", "training", "validation"]


def test_nothing_is_said_of_splits_apart(caplog: pytest.LogCaptureFixture) -> None:
    say_shared(rows(1, 1, 2), rows(3), {"test": rows(4)})
    assert not caplog.messages


def test_trusted_rows_that_were_copied_out_of_the_file_are_told(tiny: Path, tmp_path: Path) -> None:
    """Checked rows of one file, of which a share is the test set: they are on both sides."""
    every = sentences(60)
    data = write(tmp_path / "data", all=every) / "all.csv"
    trusted = write(tmp_path / "trusted", checked=every[::3]) / "checked.csv"
    options = words(tiny, data, "method=lora", "task.holdout=0.3", f"task.trusted_file={trusted}")
    plan = Plan.of(compose_config(options))
    said = " ".join(FineTuningJob.load(plan, load_task(plan)).warnings)
    assert "validation examples stand in the training data too" in said
    assert "test examples stand in the validation data too" in said


def repeated(folder: Path, times: int, alone: int) -> Path:
    """A training file in which most sentences stand several times."""
    train = [*sentences(16) * times, *(sentences(alone, 5) if alone else [])]
    return write(folder, train=train, test=sentences(32, 2))


SHORT = ("train.max_steps=3", "engine.evaluate_every=0", "method.hold_out=0.4", "method.rank=2")


def test_repeats_draw_no_frontier(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was kept apart and stands among the trained rows too is left out, and told."""
    data = repeated(tmp_path / "data", 3, 32)
    options = words(tiny, data, "method=lora", *SHORT)
    run(tmp_path / "run", options)
    with caplog.at_level(logging.WARNING):
        ranks.main([f"run={tmp_path / 'run'}"])
    found = json.loads((tmp_path / "run" / "ranks.json").read_text())
    kept = round(0.4 * 80)
    dropped = kept - found["examples"]
    assert 8 <= dropped < kept - 4
    assert f"but for {dropped} that the run trained on" in found["examples_from"]
    assert f"{dropped} of the {kept} examples" in caplog.text


def test_a_cut_leaves_repeats_out(tiny: Path, tmp_path: Path) -> None:
    data = repeated(tmp_path / "data", 3, 32)
    options = words(tiny, data, "method=lora_cut", *SHORT)
    run(tmp_path / "run", options)
    found = json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert found["examples"] < round(0.4 * 80)
    assert "stand in what was trained on too" in found["examples_from"]


@pytest.mark.parametrize("method", ["lora_cut", "autolora_singular"])
def test_repeats_that_leave_too_few_are_told_before_the_training(
    method: str, tiny: Path, tmp_path: Path
) -> None:
    data = repeated(tmp_path / "data", 8, 0)
    options = words(tiny, data, f"method={method}", "method.hold_out=0.2", "method.rank=2")
    with pytest.raises(UserError, match="stand in what is trained on"):
        run(tmp_path / "run", options)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
