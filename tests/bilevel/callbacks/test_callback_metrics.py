"""metrics.jsonl: lines, resume, trouble."""

import errno
import math
import os

import pytest
import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
    UserError,
)
from bilevel.callbacks import (
    Callback,
    CheckpointEvery,
    MetricsWriter,
    metrics,
)
from bilevel.checkpoint.folder import Checkpointer
from bilevel.errors import StorageError
from tests.bilevel.watched import Crash, build, lines_of


def test_metrics_lines(tmp_path):
    class Watch(Callback):
        losses = {"inner": [], "upper": []}  # noqa: RUF012

        def on_gradient(self, problem, loss):
            self.losses[problem.name].append(loss.item())

    watch = Watch()
    writer = MetricsWriter(tmp_path / "run" / "metrics.jsonl", every=2, stage="search")
    build(5, [watch, writer], t1=3, valid_step=4).run()
    inner, upper = watch.losses["inner"], watch.losses["upper"]
    assert (len(inner), len(upper)) == (15, 5)

    def train(step, lower, above):
        return {
            "stage": "search",
            "step": step,
            "kind": "train",
            "lower_loss": pytest.approx(sum(lower) / len(lower), rel=1e-5),
            "upper_loss": pytest.approx(sum(above) / len(above), rel=1e-5),
            "lr": pytest.approx(0.1 * 0.5 ** (3 * step)),
            "upper_lr": 0.25,
        }

    lines = lines_of(writer.path)
    validation = lines.pop(1)
    assert validation.pop("loss") > 0
    assert validation == {"stage": "search", "step": 4, "kind": "validation"}
    assert lines == [
        train(2, inner[:6], upper[:2]),
        train(4, inner[6:12], upper[2:4]),
        train(5, inner[12:], upper[4:]),  # the last step is always written
    ]


def test_losses_that_json_cannot_hold_or_that_never_came(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.write("test", 3, {"a": math.nan, "b": -math.inf, "c": 1, "d": "x", "e": None})
    (line,) = lines_of(writer.path)
    assert line["a"] is line["b"] is line["e"] is None
    assert (line["c"], line["d"]) == (1, "x")


@pytest.mark.parametrize("crash", [1, 3, 4, 6, 7, 9])
def test_resumed_metrics_equal_uninterrupted_ones(tmp_path, crash):
    """Crash after step 1, 3, ...; checkpoints every 3 steps, lines every 2, in two stages."""

    def stage(folder, name, *extra, resume=False):
        keeper = Checkpointer(folder / "checkpoints")
        writer = MetricsWriter(folder / "m.jsonl", every=2, stage=name)
        engine = build(10, [writer, *extra, CheckpointEvery(keeper, 3, name)], valid_step=2)
        if resume and (found := keeper.latest()):
            engine.load_state_dict(found[1])
        engine.run()
        return engine

    stage(tmp_path / "whole", "warm")
    whole = stage(tmp_path / "whole", "search")

    broken = tmp_path / "broken"
    stage(broken, "warm")
    kept = {p.name for p in (broken / "checkpoints").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        stage(broken, "search", Crash(crash))
    # The crash comes before the checkpoint of its step: half of the time lines are ahead of it.
    fresh = {p.name for p in (broken / "checkpoints").iterdir()} <= kept
    assert fresh == (crash <= 3)
    with (broken / "m.jsonl").open("a") as file:
        file.write('{"stage": "search", "step": 99, "ki')  # a line cut short by the kill
    # The callbacks' states are matched by place: a no-op stands where the crash was.
    resumed = stage(broken, "search", Callback(), resume=not fresh)
    assert lines_of(broken / "m.jsonl") == lines_of(tmp_path / "whole" / "m.jsonl")
    for a, b in zip(resumed.problems, whole.problems, strict=True):
        for p, q in zip(a.trainable_parameters(), b.trainable_parameters(), strict=True):
            assert torch.equal(p, q)


def test_seconds_go_on_after_a_resume(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl", every=1)
    engine = build(2, [writer])
    engine.run()
    state = engine.state_dict()
    state["callbacks"][0]["seconds"] += 1000
    again = MetricsWriter(tmp_path / "m.jsonl", every=1)
    resumed = build(3, [again])
    resumed.load_state_dict(state)
    resumed.run()
    seconds = [line["seconds"] for line in lines_of(writer.path, seconds=True)]
    assert len(seconds) == 3
    assert seconds[1] < 100 < 1000 <= seconds[2] < 1100


def test_metrics_that_were_deleted_are_reported(tmp_path, caplog):
    writer = MetricsWriter(tmp_path / "m.jsonl", every=1)
    engine = build(2, [writer])
    engine.run()
    state = engine.state_dict()
    writer.path.write_text("")
    resumed = build(3, [MetricsWriter(tmp_path / "m.jsonl", every=1)])
    resumed.load_state_dict(state)
    resumed.run()
    assert "shorter than when the checkpoint was made" in caplog.text
    assert [line["step"] for line in lines_of(writer.path)] == [3]


def test_metrics_cannot_be_written(tmp_path):
    (tmp_path / "m.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*m.jsonl"):
        MetricsWriter(tmp_path / "m.jsonl").write("test", 1, {})
    with pytest.raises(UserError, match="every 1 step"):
        MetricsWriter(tmp_path / "x", every=0)


def full(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_the_way_on(tmp_path, monkeypatch):
    """As a StorageError, behind which the program says how to continue; at the start as well."""
    writer = MetricsWriter(tmp_path / "m.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr(metrics, "open", full, raising=False)
        with pytest.raises(StorageError, match=r"cannot write .*m\.jsonl: .*free some space"):
            writer.write("test", 1, {})
    writer.path.write_text("cut short")
    monkeypatch.setattr(os, "truncate", full)
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}: .*free some space"):
        build(1, [MetricsWriter(writer.path)]).run()


def test_other_graphs_use_problem_names(tmp_path):
    torch.manual_seed(0)

    class Alone(LowerProblem):
        def training_step(self, batch):
            return self.module(batch).pow(2).mean()

    def problem(name):
        module = nn.Linear(3, 1)
        return Alone(
            name,
            ProblemConfig(),
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
            train_data_loader=ResumableLoader(list(torch.randn(8, 3)), 4, torch.stack),
        )

    for names, expected in (
        (["only"], {"lower_loss", "lr"}),
        (["a", "b"], {"a_loss", "a_lr", "b_loss", "b_lr"}),
    ):
        writer = MetricsWriter(tmp_path / f"{len(names)}.jsonl", every=1)
        BilevelEngine(
            [problem(n) for n in names],
            BilevelEngineConfig(train_iters=1, strategy="cpu"),
            callbacks=[writer],
        ).run()
        (line,) = lines_of(writer.path)
        assert set(line) - {"stage", "step", "kind"} == expected
