"""Callbacks on a real two-level run: progress, metrics across resumes, the guard, checkpoints."""

import io
import json
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
    UpperProblem,
    UserError,
)
from bilevel.callbacks import (
    Callback,
    CheckpointEvery,
    MetricsWriter,
    NonFiniteError,
    NonFiniteGuard,
    ProgressBar,
)
from bilevel.checkpoint import Checkpointer
from bilevel.hypergradient import NoHypergradient


class Lower(LowerProblem):
    def training_step(self, batch):
        return ((self.module(batch) - 1) ** 2).mean() * self.upper.module.weight.exp().mean()


class Upper(UpperProblem):
    def training_step(self, batch):
        return (self.inner.module(batch) ** 2).mean() + self.module.weight.pow(2).mean()


def build(steps=6, callbacks=(), t1=1, valid_step=0, data=None, **config):
    torch.manual_seed(0)
    if data is None:
        data = list(torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))
    module, gate = nn.Linear(3, 1), nn.Linear(2, 1)
    lower_optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    lower = Lower(
        "inner",
        ProblemConfig(hypergradient=NoHypergradient(), unroll_steps=t1),
        module=module,
        optimizer=lower_optimizer,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(lower_optimizer, 0.5),
        train_data_loader=ResumableLoader(data, 4, torch.stack, seed=3),
    )
    upper = Upper(
        "upper",
        ProblemConfig(),
        module=gate,
        optimizer=torch.optim.SGD(gate.parameters(), lr=0.25),
        train_data_loader=ResumableLoader(data, 4, torch.stack, seed=4),
    )
    return BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=steps, valid_step=valid_step, strategy="cpu", **config),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        callbacks=list(callbacks),
        validation=lambda engine: {"loss": float(module.weight.detach().norm())},
    )


class Crash(Callback):
    """Raises after a step, like a kill that leaves what was on the disk."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, engine):
        if engine.global_step == self.step:
            raise KeyboardInterrupt


def lines_of(path, seconds=False):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not seconds:
        for line in lines:
            assert line.pop("seconds") >= 0
    return lines


# ------------------------------------------------------------------ metrics


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
    with pytest.raises(UserError, match=r"cannot write .*m.jsonl"):
        MetricsWriter(tmp_path / "m.jsonl").write("test", 1, {})
    with pytest.raises(UserError, match="every 1 step"):
        MetricsWriter(tmp_path / "x", every=0)


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


# ------------------------------------------------------------------ guard


def poisoned(index, value):
    data = list(torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))
    data[index] = torch.full((3,), value)
    return data


def batches_of_first_epoch(data, seed):
    loader = ResumableLoader(data, 4, torch.stack, seed=seed)
    return [loader.last_indices for _ in loader]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_guard_names_step_problem_batch_and_checkpoint(tmp_path, value):
    data = poisoned(5, value)
    lower_batches, upper_batches = (batches_of_first_epoch(data, seed) for seed in (3, 4))
    lower_step, upper_step = (
        next(i for i, batch in enumerate(batches, 1) if 5 in batch)
        for batches in (lower_batches, upper_batches)
    )
    first_is_lower = lower_step <= upper_step
    step = min(lower_step, upper_step)
    batch = (lower_batches if first_is_lower else upper_batches)[step - 1]

    keeper = Checkpointer(tmp_path, keep=5)
    keeper.save("warm", 1, {})
    callbacks = [NonFiniteGuard(checkpointer=keeper), CheckpointEvery(keeper, 1, "search")]
    engine = build(6, callbacks, data=data)
    with pytest.raises(NonFiniteError) as caught:
        engine.run()
    message = str(caught.value)
    name = "inner" if first_is_lower else "upper"
    assert f"the loss of problem {name!r} is not finite at global step {step} " in message
    assert f"examples {', '.join(map(str, batch))})" in message
    newest = keeper.paths()[-1]
    assert f"last good checkpoint: {newest}" in message
    assert len(keeper.paths()) == step  # "warm", and steps before the bad one
    # Caught before the optimiser step: the weights are those of the last good step.
    assert all(torch.isfinite(p).all() for p in engine.inner.trainable_parameters())


def test_guard_sees_a_gradient_that_is_not_finite():
    class Steep(Lower):
        def training_step(self, batch):
            weight = self.module.weight
            return (weight - weight.detach()).abs().sqrt().sum()  # 0, with an infinite slope

    module = nn.Linear(3, 1)
    problem = Steep(
        "steep",
        ProblemConfig(),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        train_data_loader=ResumableLoader(list(torch.randn(8, 3)), 4, torch.stack),
    )
    config = BilevelEngineConfig(train_iters=2, strategy="cpu")
    with pytest.raises(NonFiniteError, match=r"the gradient of problem 'steep' .*global step 1 "):
        BilevelEngine([problem], config, callbacks=[NonFiniteGuard()]).run()


class FakeProblem:
    """As much of a problem as the guard looks at; the loss says it is on another device."""

    scaler = None

    def __init__(self, name="p", grad=1.0):
        self.name, self.count, self.last_indices = name, 0, None
        self.parameter = nn.Parameter(torch.ones(2))
        self.parameter.grad = torch.full((2,), grad)

    def trainable_parameters(self):
        return [self.parameter]


class FakeEngine:
    def __init__(self):
        self.global_step = 0


class Elsewhere(torch.Tensor):
    """A CPU tensor that claims to be on an accelerator, where values must not be read."""

    reads = 0

    @property
    def device(self):
        return torch.device("meta")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__int__):
            cls.reads += 1
        if func is torch.Tensor.to:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})


def elsewhere(value):
    return torch.tensor(value).as_subclass(Elsewhere)


def test_guard_reads_an_accelerator_only_now_and_then(monkeypatch):
    """Bad in step 3, read after step 5: the message still names step 3 and its batch."""
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda grads, _: elsewhere(1.0))
    guard, engine = NonFiniteGuard(every=5), FakeEngine()
    problems = [FakeProblem("inner"), FakeProblem("upper")]
    guard.on_start(engine)
    Elsewhere.reads = 0

    def run():
        for step in range(1, 7):
            engine.global_step = step
            for problem in problems:
                problem.count += 1
                problem.last_indices = [10 * step, 10 * step + 1]
                bad = step >= 3 and problem.name == "upper"
                guard.on_gradient(problem, elsewhere(math.nan if bad else 1.0))
                assert Elsewhere.reads == 0
            guard.on_step_end(engine)

    with pytest.raises(NonFiniteError) as caught:
        run()
    assert engine.global_step == 5
    assert Elsewhere.reads == 1
    assert "problem 'upper' is not finite at global step 3 (local step 3" in str(caught.value)
    assert "examples 30, 31)" in str(caught.value)


def test_guard_is_read_before_a_checkpoint_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda grads, _: elsewhere(1.0))
    guard, engine = NonFiniteGuard(every=1000), FakeEngine()
    saver = CheckpointEvery(Checkpointer(tmp_path), every=2)
    engine.callbacks, engine.train_iters, engine.stop_reason = [guard, saver], 10, None
    guard.on_start(engine)
    guard.on_gradient(FakeProblem(), elsewhere(math.inf))
    engine.global_step = 1
    saver.on_step_end(engine)
    guard.on_step_end(engine)
    engine.global_step = 2
    with pytest.raises(NonFiniteError):
        saver.on_step_end(engine)
    assert os.listdir(tmp_path) == []
    guard.on_gradient(FakeProblem(), elsewhere(math.inf))
    with pytest.raises(NonFiniteError):
        guard.on_end(engine)


def test_guard_leaves_large_and_scaled_gradients_alone():
    guard, problem = NonFiniteGuard(), FakeProblem(grad=3e38)  # finite, its square is not
    guard.on_gradient(problem, torch.tensor(1.0))
    problem.parameter.grad[0] = math.inf
    problem.scaler = object()  # fp16: the scaler skips such a step
    guard.on_gradient(problem, torch.tensor(1.0))
    problem.parameter.grad = torch.tensor([0.0, math.inf]).to_sparse()
    guard.on_gradient(problem, torch.tensor(1.0))
    problem.scaler = None
    with pytest.raises(NonFiniteError, match=r"gradient .*batch unknown"):
        guard.on_gradient(problem, torch.tensor(1.0))
    with pytest.raises(UserError, match="every=0"):
        NonFiniteGuard(every=0)


def test_guard_shortens_huge_batches():
    guard, problem = NonFiniteGuard(), FakeProblem()
    problem.last_indices = list(range(1000))
    with pytest.raises(NonFiniteError, match="62, 63 and 936 more"):
        guard.on_gradient(problem, torch.tensor(math.nan))


# ------------------------------------------------------------------ checkpoints


def test_checkpoints_every_and_last(tmp_path):
    keeper = Checkpointer(tmp_path, keep=9)
    engine = build(8, [CheckpointEvery(keeper, 3, "search")])
    engine.run()
    steps = [int(p.stem[-8:]) for p in keeper.paths()]
    assert steps == [3, 6, 8]
    again = build(8, [CheckpointEvery(keeper, 3, "search")])
    again.load_state_dict(keeper.latest()[1])
    assert again.global_step == 8
    assert torch.equal(again.inner.module.weight, engine.inner.module.weight)


def test_checkpoint_when_stopped_early_and_own_state(tmp_path):
    class Stop(Callback):
        def on_step_end(self, engine):
            if engine.global_step == 4:
                engine.request_stop("enough")

    keeper = Checkpointer(tmp_path, keep=9)
    saver = CheckpointEvery(keeper, 3, state=lambda engine: {"at": engine.global_step})
    build(8, [Stop(), saver]).run()
    assert keeper.latest()[1] == {"at": 4}


def test_checkpoints_must_come_last(tmp_path):
    saver = CheckpointEvery(Checkpointer(tmp_path), 1)
    with pytest.raises(UserError, match="must be the last"):
        build(1, [saver, Callback()]).run()
    with pytest.raises(UserError, match="every=0"):
        CheckpointEvery(Checkpointer(tmp_path), 0)


# ------------------------------------------------------------------ progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_rate_time_left_and_both_losses():
    screen = Terminal()
    build(7, [ProgressBar("search", refresh=0.0, stream=screen)]).run()
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("search: 100%")
    assert "7/7" in last
    assert "lower loss=" in last
    assert "upper loss=" in last
    middle = next(part for part in screen.getvalue().split("\r") if "3/7" in part)
    assert "<" in middle  # elapsed<remaining
    assert "step/s" in middle or "s/step" in middle


def test_progress_goes_on_from_the_resumed_step():
    engine = build(4)
    engine.run()
    screen = Terminal()
    resumed = build(6, [ProgressBar(refresh=0.0, stream=screen)])
    state = engine.state_dict()
    state["callbacks"] = [{}]
    resumed.load_state_dict(state)
    resumed.run()
    assert "4/6" in screen.getvalue()
    assert "3/6" not in screen.getvalue()
    assert "6/6" in screen.getvalue()


def test_progress_is_quiet_without_a_terminal():
    stream = io.StringIO()
    bar = ProgressBar("search", refresh=0.0, stream=stream)
    build(3, [bar]).run()
    assert stream.getvalue() == ""
    assert bar._losses.read() == {}


def test_progress_reads_losses_only_when_it_draws(monkeypatch):
    screen = Terminal()
    bar = ProgressBar(refresh=3600.0, stream=screen)
    reads = []
    read = bar._losses.read
    monkeypatch.setattr(bar._losses, "read", lambda: reads.append(1) or read())
    build(30, [bar]).run()
    assert 1 <= len(reads) <= 2


def test_progress_leaves_a_line_when_a_step_fails():
    screen = Terminal()
    with pytest.raises(KeyboardInterrupt):
        build(5, [ProgressBar(refresh=0.0, stream=screen), Crash(2)]).run()
    assert screen.getvalue().endswith("\n")
