"""Run a graph of levels in global steps of T1 lower and T2 upper ones, with exact resume."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import betty.logging
import torch
from betty.configs import EngineConfig
from betty.engine import Engine
from betty.misc.early_stopping import EarlyStopping as BettyEarlyStopping

from bilevel import distributed, graph, sharding
from bilevel.callbacks.callback import Callback
from bilevel.config import BilevelEngineConfig
from bilevel.dependencies import check_dependencies, check_problems
from bilevel.errors import UserError, listed
from bilevel.evaluation import draws_masks
from bilevel.hypergradient.registry import estimator_of
from bilevel.hypergradient.settings_adjoint import check_step_settings
from bilevel.nests import clone_nested
from bilevel.problem import BilevelProblem
from bilevel.replay.random_state import RandomState

__all__ = ["BilevelEngine", "EarlyStopping"]

log = logging.getLogger(__name__)


class EarlyStopping(BettyEarlyStopping):
    """Betty's early stopping with the patience it forgot to set, and a state to save."""

    def __init__(self, metric: str = "loss", tolerance: int = 5, mode: str = "min") -> None:
        if mode not in ("min", "max"):
            raise UserError(f"early_stopping_mode must be min or max, got {mode!r}")
        super().__init__(metric=metric, tolerance=tolerance, mode=mode)
        self.patience = tolerance

    def __call__(self, validation_stats: dict[str, float]) -> bool:
        """Whether the metric has not improved ``patience`` times in a row."""
        if self.metric not in validation_stats:
            raise UserError(
                f"early stopping watches {self.metric!r}, which the validation does not report; "
                f"it reports: {', '.join(validation_stats)}"
            )
        if math.isnan(validation_stats[self.metric]):  # a first score that nothing would exceed
            self.counter += 1
            return self.counter >= self.patience
        return bool(super().__call__(validation_stats))


class BilevelEngine(Engine):
    """Runs a graph of problems; a global step is T1 lower steps, then T2 upper steps.

    Args:
        problems: the levels.
        config: a :class:`BilevelEngineConfig`; ``train_iters`` counts global steps. Betty's own
            ``EngineConfig`` becomes one.
        dependencies: ``{"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}``; None for one problem
            or several independent ones.
        env: as in Betty.
        callbacks: called in order; see :class:`bilevel.callbacks.Callback`.
        validation: ``engine -> {name: number}``, called every ``valid_step`` global steps with all
            problems in evaluation mode (or define the method in a subclass, as in Betty).

    Raises:
        UserError: a problem is none of ours, has been in an engine before or lacks a part, two
            have one name or own the same parameter, the dependencies are none, or there is
            nothing that early stopping could watch.
    """

    def __init__(
        self,
        problems: Sequence[BilevelProblem],
        config: EngineConfig | None = None,
        dependencies: dict[str, dict[Any, list[Any]]] | None = None,
        env: Any = None,
        callbacks: Sequence[Callback] = (),
        validation: Callable[[BilevelEngine], dict[str, float]] | None = None,
    ) -> None:
        self.callbacks = _checked(callbacks)
        self.stop_reason: str | None = None
        self.accelerator: Any = None
        self.world = distributed.World()
        self._streams = 1  # of the processes, have a random state of their own
        if validation is not None:
            self.validation = lambda: validation(self)
        dependencies = dependencies or {"u2l": {}, "l2u": {}}
        check_problems(problems)
        check_dependencies(problems, dependencies)
        config = BilevelEngineConfig() if config is None else BilevelEngineConfig.of(config)
        if not config.verbose:
            betty.logging.get_logger().setLevel(logging.WARNING)
        if config.early_stopping and not self.is_implemented("validation"):
            raise UserError("early_stopping=True has nothing to watch: give the engine validation=")
        if config.early_stopping and not config.valid_step:
            log.warning(
                "early_stopping=True counts validations, and valid_step=0 makes none: the run goes "
                "to its end"
            )
        super().__init__(list(problems), config, dependencies, env)

    # ------------------------------------------------------------------ setting up

    def parse_config(self) -> None:
        """Read the config; early stopping with its patience."""
        early, self.config.early_stopping = self.config.early_stopping, False
        super().parse_config()
        self.config.early_stopping = early
        if early:
            self.early_stopping = EarlyStopping(
                metric=self.config.early_stopping_metric,
                tolerance=self.config.early_stopping_tolerance,
                mode=self.config.early_stopping_mode,
            )

    def configure_systems(self) -> dict[str, Any]:
        """Choose device and ranks: any strategy on CPUs and GPUs alike."""
        world = distributed.setup(self._strategy, self._backend)
        shards = self.config.shard is not None
        if shards:
            sharding.check_processes(world)
        self.world = replace(world, shards_base=shards, offloads=self.config.offload)
        self._world_size = self.world.world_size
        self._rank, self._local_rank = self.world.rank, self.world.local_rank
        self.device = self.world.device
        return {
            "strategy": self._strategy,
            "backend": self._backend,
            "world_size": self._world_size,
            "rank": self._rank,
            "local_rank": self._local_rank,
            "world": self.world,
        }

    def initialize(self) -> None:
        """Set up the graph; gradients are reported to the callbacks."""
        super().initialize()
        graph.check_owners(self.problems)
        modules = [problem.module for problem in self.problems]
        if self.world.shards_base and not any(map(sharding.is_sharded, modules)):
            raise UserError(
                "shard=base shares out the frozen weights of a model's blocks, and the modules of "
                "the levels have none: leave it at null"
            )
        for problem in self.problems:
            check_step_settings(estimator_of(problem.config), problem)
            self._check_first_order(problem)
            problem.gradient_hooks.append(self._on_gradient)

    def set_problem_attr(self, problem: BilevelProblem) -> str:
        """Let the engine and the other problems reach a problem by its name.

        Raises:
            UserError: they have something of that name.
        """
        for owner in (self, *self.problems):
            if owner is not problem and hasattr(owner, problem.name):
                told = "the engine" if owner is self else f"problem {owner.name!r}"
                raise UserError(
                    f"a problem cannot be named {problem.name!r}: {told} has an attribute of that "
                    "name, and would lose it"
                )
        return str(super().set_problem_attr(problem))

    def _check_first_order(self, problem: BilevelProblem) -> None:
        """Refuse second derivatives of a base that is shared out over processes."""
        if not (self.world.shards_base and problem.parents):
            return
        estimator, needs = estimator_of(problem.config), problem.recorder.needs
        if estimator is None or needs.double_backward or needs.graph:
            raise UserError(
                f"hypergradient {problem.config.type} differentiates gradients again, which "
                "shard=base does not allow: take finite_difference, or unrolled with "
                "product=central_difference"
            )

    def _on_gradient(self, problem: Any, loss: torch.Tensor) -> None:
        for callback in self.callbacks:
            callback.on_gradient(problem, loss)

    # ------------------------------------------------------------------ running

    def train_step(self) -> None:
        """One global step: every leaf takes its T1 steps and sets off its upper levels."""
        for leaf in self.leaves:
            for _ in range(leaf.config.unroll_steps * leaf.gas):
                leaf.step_normal(global_step=self.global_step)
        # Only now: with several leaves the upper step waits for the last of them.
        for leaf in self.leaves if self._roll_back else ():
            if leaf.count > leaf.warmup_steps:
                leaf.step_after_roll_back()

    def request_stop(self, reason: str) -> None:
        """Stop after the global step under way."""
        self.stop_reason = reason

    def run(self) -> None:
        """Train to ``train_iters`` global steps, from wherever the engine stands.

        An engine that was asked to stop takes no further step until its ``stop_reason`` is None.
        """
        if self.stop_reason is not None and self.global_step < self.train_iters:
            log.warning(
                "run() takes no step: the engine stopped at step %d of %d (%s); to train on, set "
                "engine.stop_reason = None",
                self.global_step,
                self.train_iters,
                self.stop_reason,
            )
        self.train()
        self._part_streams()
        for callback in self.callbacks:
            callback.on_start(self)
        try:
            while self.global_step < self.train_iters and self.stop_reason is None:
                self.global_step += 1
                self.train_step()
                if self.valid_step and self.global_step % self.valid_step == 0:
                    self._validate()
                # After the validation: a checkpoint made here includes its outcome.
                for callback in self.callbacks:
                    callback.on_step_end(self)
                self.agree_to_stop()
        except BaseException as error:
            for callback in self.callbacks:
                callback.on_exception(self, error)
            raise
        for callback in self.callbacks:
            callback.on_end(self)

    def _part_streams(self) -> None:
        """Let each process draw dropout masks of its own, as no two examples share one.

        Without dropout all go on drawing the same, so that W processes on their parts of a batch
        are one process on the whole.
        """
        if self.world.rank < self._streams:
            return
        self._streams = self.world.world_size
        if any(draws_masks(problem.module) for problem in self.problems):
            torch.manual_seed(int(torch.randint(2**62, ())) + self.world.rank)

    def agree_to_stop(self) -> None:
        """Stop on all processes where one has been asked to; each has to come here."""
        stop = distributed.any_of(self.stop_reason is not None, self.world)
        if stop and self.stop_reason is None:
            self.request_stop("another process asked for it")

    def _validate(self) -> None:
        """Every process takes part; what the first one finds is what counts."""
        if not self.is_implemented("validation"):
            return
        self.eval()
        with RandomState.capture(self.device).replayed():
            stats = self.validation() or {}
        self.train()
        stats = distributed.from_first(stats, self.world)
        for callback in self.callbacks:
            callback.on_validation(self, stats)
        begun = self.global_step >= self.config.early_stopping_start
        if self.early_stopping is not None and begun and self.early_stopping(stats):
            self.request_stop(
                f"{self.early_stopping.metric} has not improved in "
                f"{self.early_stopping.patience} validations"
            )

    def cleanup(self) -> None:
        """Leave the process group, if the engine joined one."""
        distributed.cleanup(self.world)

    # ------------------------------------------------------------------ states

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future, for :func:`bilevel.checkpoint.folder.save_state`.

        Tensors are live: save or copy them before the next step. Every process has to come here:
        the state that one of them saves holds the random states of all.
        """
        stopping = self.early_stopping
        random = RandomState.capture(self.device)
        streams = distributed.gathered(random.state_dict(), self.world)
        return {
            "global_step": self.global_step,
            "stop_reason": self.stop_reason,
            "problems": {problem.name: problem.state_dict() for problem in self.problems},
            "random": streams[0],
            "random_of_others": streams[1:],
            "early_stopping": None
            if stopping is None
            else {"best_score": stopping.best_score, "counter": stopping.counter},
            "callbacks": [callback.state_dict() for callback in self._with_state()],
            "callback_types": [type(callback).__qualname__ for callback in self._with_state()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. The state is copied, and serves again.

        Raises:
            UserError: the state is of an engine with other problems or callbacks.
        """
        mine, saved = [p.name for p in self.problems], list(state["problems"])
        if sorted(mine) != sorted(saved):
            raise UserError(
                f"the saved state is of problems {', '.join(saved)}, this engine has "
                f"{', '.join(mine)}"
            )
        self.global_step = state["global_step"]
        self.stop_reason = state["stop_reason"]
        for problem in self.problems:
            problem.load_state_dict(state["problems"][problem.name])
        if self.early_stopping is not None and state["early_stopping"] is not None:
            self.early_stopping.best_score = state["early_stopping"]["best_score"]
            self.early_stopping.counter = state["early_stopping"]["counter"]
        callbacks, states = self._with_state(), state["callbacks"]
        if len(states) != len(callbacks):  # older versions saved the empty states of others too
            states = [values for values in states if values]
        if len(states) != len(callbacks):
            raise UserError(
                f"the saved state is of {len(states)} callbacks with a state, and this engine has "
                f"{len(callbacks)}"
            )
        mine = [type(callback).__qualname__ for callback in callbacks]
        saved = state.get("callback_types", mine)  # older states have no names
        if saved != mine:
            raise UserError(
                f"the saved state is of the callbacks {listed(saved)}, in this order, and this "
                f"engine has {listed(mine)}"
            )
        for callback, callback_state in zip(callbacks, states, strict=True):
            callback.load_state_dict(clone_nested(callback_state))
        streams = [state["random"], *state.get("random_of_others", ())]  # older states: of one
        rank = self.world.rank
        own = RandomState.from_state_dict(streams[rank if rank < len(streams) else 0])
        own.on(self.device).restore()
        self._streams = len(streams)

    def _with_state(self) -> list[Callback]:
        """The callbacks that a resumed run must give something back to."""
        plain = Callback.state_dict
        return [callback for callback in self.callbacks if type(callback).state_dict is not plain]


def _checked(callbacks: Any) -> list[Callback]:
    """The list of them."""
    if isinstance(callbacks, (Callback, type)):
        raise UserError(f"callbacks must be a list of instances of Callback, got {callbacks!r}")
    found = list(callbacks)
    for callback in found:
        if not isinstance(callback, Callback):
            hint = f": call it, {callback.__name__}()" if isinstance(callback, type) else ""
            raise UserError(f"callbacks holds {callback!r}, which is no instance of Callback{hint}")
    return found
