"""SaLoRA's jobs: all six matrices, watched after every step, or interrupted between two."""

from __future__ import annotations

from bilevel.nests import clone_nested
from tests.problems.jobs import SmallJob, engine_of

ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


class WatchedJob(SmallJob):
    """All six matrices; after every global step, what ``look(problems)`` says."""

    def __init__(self, look=None, **options):
        super().__init__(**{"n": 64, **options})
        self.target_modules = ALL
        self.look = look
        self.seen = []

    def run(self, training):
        if self.look is not None:
            problems = training.problems
            lower, step = problems[0], problems[0].step_normal

            def watched(global_step=None):
                step(global_step=global_step)
                self.seen.append(self.look(problems))

            lower.step_normal = watched
        return super().run(training)


def parts(problems):
    lower = problems[0]
    gates = lower.gate_window.gates
    return {
        "phase": gates.phase,
        "logits": gates.logits.detach().clone(),
        "values": gates.values().detach().clone(),
        "lambda": problems[1].module.value.item() if len(problems) > 1 else None,
        "moments": {k: v.clone() for k, v in lower.optimizer.state.get(gates.logits, {}).items()},
        "gate_lr": lower.optimizer.param_groups[1]["lr"],
        "lr": lower.optimizer.param_groups[0]["lr"],
        "density": float(lower.gate_window.density()),
    }


class Interrupted(SmallJob):
    """Saves the engine's state after ``at`` global steps, or continues from one."""

    def __init__(self, at, saved=None, **options):
        super().__init__(n=64, epochs=9, max_steps=20, **options)
        self.target_modules = ALL
        self.at = at
        self.saved = saved

    def run(self, training):
        engine = engine_of(training)
        if self.saved is None:
            engine.train_iters = self.at
            engine.run()
            self.saved = clone_nested(engine.state_dict())
            engine.train_iters = training.steps
        else:
            engine.load_state_dict(self.saved)
            self.phase = training.gates.gates.phase
        engine.run()
        self.gates = training.gates.gates
        return {}
