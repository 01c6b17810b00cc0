"""What is trained to score examples, drawn how, and which of them are counted as wrong."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bilevel.errors import UserError
from experiments.cli.command_line import CommandLine
from experiments.results.finished_run import SavedRun
from experiments.stored_data.parts import sources_of
from experiments.suspecting.again import plan_of, trusting_task
from experiments.suspecting.apply import applied
from experiments.suspecting.find import Found, _with_classes, find
from experiments.suspecting.models import Said, part
from experiments.suspecting.pooled import Known
from experiments.suspecting.scores import Scores
from experiments.training.fine_tuning_job import FineTuningJob
from tests.experiments.test_suspects import made


def test_sources_are_drawn_as_the_run_drew_them(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the models behind the scores, and by what is trained on the rest."""
    file = tmp_path / "weights.json"
    file.write_text('{"weights": {"clean": 1, "shuffled": 0, "flipped": 0, "visits": 0.5}}')
    words = ["task=demo_sources", "task.max_train=64", f"task.source_weights={file}"]
    run = SavedRun.open(str(made(quick, tmp_path / "run", *words)), CommandLine.of_one([]), [])
    data = trusting_task(run)
    assert data.draw_weights is not None
    of = {"clean": 1.0, "shuffled": 0.0, "flipped": 0.0, "visits": 0.5}
    assert list(data.draw_weights) == [of[name] for name in sources_of(data.train)]
    job = FineTuningJob.load(plan_of(run, len(data.train)), replace(data, tests={}))
    assert job.plan.config["task"]["source_weights"] == str(file)
    run.config.task.source_weights = None  # as given now
    assert trusting_task(run).draw_weights is None
    assert plan_of(run, 64).config["task"]["source_weights"] is None
    assert part(job.data, [3, 5]).draw_weights == [data.draw_weights[i] for i in (3, 5)]
    found = Found(Scores({"pooled": np.arange(64.0)}, 2), [0] * 64, np.ones(64))
    count = len(data.validation or ())
    trusted = [sum(data.draw_weights) / 64] * count  # together as much as their number says
    dropped = applied(data, found, "drop", "pooled", 2).draw_weights
    assert dropped == (*data.draw_weights[:-2], *trusted)
    assert applied(data, found, "pooled", "pooled", 0).draw_weights == (
        *data.draw_weights,
        *trusted,
    )
    assert applied(data, found, "trusted", "pooled", 0).draw_weights is None
    seen: list[Any] = []

    def stop(_: Any, given: Any, __: Any) -> Any:
        seen.append(given.draw_weights)
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.suspecting.find.trained_lora", stop)
    with pytest.raises(KeyboardInterrupt):
        find(job, run.folder, 2, 1, 1)
    (drawn,) = seen
    assert len(drawn) == 32
    assert set(drawn) == {0.0, 0.5, 1.0}
    one = replace(job.data, draw_weights=[1.0, *[0.0] * 63])
    with pytest.raises(UserError, match=r"folds=2.*only 1.*task\.source_weights"):
        find(replace(job, data=one), run.folder, 2, 1, 1)


def test_likelier_wrong_than_right_are_those_with_scores_above_a_half() -> None:
    """So that the most suspect, which are dropped, are those that were counted."""
    draw = np.random.default_rng(0)
    first, second = (draw.dirichlet(np.ones(5), 60) for _ in range(2))
    given = first.argmax(1) * (draw.random(60) < 0.5)
    said = [Said(np.zeros(60), None, shares, given, np.arange(60)) for shares in (first, second)]
    known = Known(first[:20], second[:20], given[:20])
    data: Any = SimpleNamespace(train=[None] * 60, answers=SimpleNamespace(kind="classes"))
    columns = {"trusted": np.zeros(60)}
    found = _with_classes(SimpleNamespace(task=data), columns, *said, known)  # type: ignore[arg-type]
    pooled = found.scores.columns["pooled"]
    assert 0 < found.scores.estimated < 60  # type: ignore[operator]
    counted = found.scores.ranks("pooled") <= found.scores.estimated
    np.testing.assert_array_equal(counted, pooled > 0.5)
    assert found.scores.expected == pytest.approx(pooled.sum())
