"""Betty problems with recorded steps and exact states: the two levels as users write them."""

from __future__ import annotations

from typing import Any

import torch

from bilevel.hypergradient.base import Hypergradient, estimator_of
from bilevel.hypergradient.optimizers import snapshot
from bilevel.problem_state import ProblemState
from bilevel.replay.random_state import RandomState
from bilevel.replay.recording import StepRecord, clone_nested

__all__ = ["BilevelProblem", "LowerProblem", "UpperProblem"]


class BilevelProblem(ProblemState):
    """One level of a multilevel problem: Betty's ``ImplicitProblem``, cured.

    The problem owns a fixed list of parameters, settled at construction: those of the optimiser
    that require a gradient, else those of the module that do. Everything else is frozen for it.

    Args:
        name: name by which the other problems reach this one (``self.NAME``).
        config: a :class:`ProblemConfig` (Betty's own ``Config`` works too).
        module, optimizer, scheduler, train_data_loader: as in Betty, or by the ``configure_*``
            hooks. Optimiser, parameter groups and scheduler are used as given, never rebuilt.
    """

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Take one micro-batch; at the accumulation boundary, one optimiser step."""
        fresh = batch is None
        if fresh:
            batch = self.cur_batch = self.get_batch()
            if self._rolling:
                # Those of one optimiser step, for taking it again.
                self._micro_batches = [*self._micro_batches, batch][-self.gas :]
        record = self._open_record(batch) if fresh and self._parents else None
        if record is not None and record.graph is not None:
            with self.slots.holding(record.graph[0], replay=False):
                loss, stats = self.get_loss(batch)
                self.slots.verify(loss, self.name)
        else:
            loss, stats = self.get_loss(batch)
        self._micro_record = record
        self.backward(
            loss=loss,
            params=self.trainable_parameters(),
            paths=self._paths,
            create_graph=not self._first_order,
            retain_graph=self._retain_graph,
            allow_unused=self._allow_unused,
        )
        self._micro_record = None
        if self.is_implemented("grad_callback"):
            self.grad_callback()
        if self.gradient_accumulation_boundary():
            if record is not None:
                self._close_record(record)
            if self.scaler is None:
                self.optimizer_step()
            else:
                before = self.scaler.get_scale()
                self.optimizer_step()
                if record is not None:  # the scale falls when the step was skipped
                    record.applied = self.scaler.get_scale() >= before
            if self.is_implemented("param_callback"):
                self.param_callback()
            self.zero_grad()
        return stats

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Clip, then step the optimiser as it was given (Betty's adds entries to its state)."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.gradient_clipping > 0.0:
            self.clip_grad()
        if self.is_implemented("custom_optimizer_step"):
            self.custom_optimizer_step(*args, **kwargs)
        elif self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

    def _open_record(self, batch: Any) -> StepRecord | None:
        """Remember what the coming micro-batch needs to be computed again."""
        needs = self._needs
        if needs.depth == 0:
            return None
        first_micro = self.gas == 1 or self._count % self.gas == 1
        if not first_micro and self.window.steps:
            record = self.window.steps[-1]
        else:
            weights = [p.detach().clone() for p in self.trainable_parameters()]
            record = StepRecord(weights, max_norm=self.gradient_clipping)
            if needs.optimizer:
                record.snapshot = snapshot(self.optimizer, self.trainable_parameters())
            if needs.graph and self.gas == 1:
                record.graph = ([w.requires_grad_() for w in record.weights], [])
            self.window.steps.append(record)
        record.batches.append((batch, RandomState.capture(self.device)))
        return record

    def _close_record(self, record: StepRecord) -> None:
        inverse = self._inverse_scale()
        # A copy: clipping changes p.grad in place. None where the loss does not use a parameter.
        record.gradient = [
            None if p.grad is None else p.grad.detach() * inverse
            for p in self.trainable_parameters()
        ]

    def step_normal(self, global_step: int | None = None) -> None:
        """One micro-step of a leaf; T2 optimiser steps of a problem whose children are done."""
        if not self.check_ready():
            return
        repeats = 1 if self._leaf else getattr(self.config, "steps", 1) * self.gas
        for _ in range(repeats):
            self.ready = [True] * len(self._children)
            self._micro_step(global_step)
        self.ready = [False] * len(self._children)

    def _micro_step(self, global_step: int | None) -> None:
        if self._inner_loop_start:
            if self.is_implemented("on_inner_loop_start"):
                self.on_inner_loop_start()
            self._inner_loop_start = False
            # Steps of the warm-up stand: no upper step follows them.
            end = self._count + self._unroll_steps * self.gas
            self._rolling = self._roll_back and self._training and end > self.warmup_steps
            if self._rolling:
                self.cache_states()
            if self._parents:
                estimator = estimator_of(self.config)
                if estimator is not None and estimator.per_window:
                    self._needs = estimator.needs(self)
                self.window.open(
                    self._needs.depth,
                    {
                        above.name: [p.detach().clone() for p in above.trainable_parameters()]
                        for above in self.ancestors
                    },
                )
        if self._training:
            self._count += 1
        stats = self.one_step_descent()
        at_boundary = self.gradient_accumulation_boundary()
        if self.scheduler is not None and not self._rolling and at_boundary:
            self.scheduler.step()
        if self.log_step > 0 and self._count % self.log_step == 0 and self.is_rank_zero():
            self.log(stats, global_step)
        due = self._count % (self._unroll_steps * self.gas) == 0
        if self._training and due and self._count > self.warmup_steps:
            for parent in self._parents:
                parent.ready[parent.children.index(self)] = True
                parent.step_normal(global_step=global_step)
            self.window.drop_graphs()
            self._inner_loop_start = True
        elif due:
            self._inner_loop_start = True

    def step_after_roll_back(self) -> None:
        """Back to the window's start; its last step again, now with the new upper variables."""
        if not (self.check_ready() and self._training):
            return
        if self._rolling and self._inner_loop_start:  # the window is complete
            self._rolling = False
            self.recover_states()
            end = self._count
            for missing, batch in zip(
                range(len(self._micro_batches) - 1, -1, -1), self._micro_batches, strict=True
            ):
                self._count = end - missing
                self.one_step_descent(batch)
            if self.scheduler is not None:
                self.scheduler.step()
            for parent in self._parents:
                if parent._roll_back:
                    parent.ready[parent.children.index(self)] = True
                    parent.step_after_roll_back()
        self.ready = [False] * len(self._children)

    def cache_states(self) -> None:
        """Copy what a roll-back restores: what this level owns, no backbone."""
        self.module_state_dict_cache = {
            "parameters": [p.detach().clone() for p in self.trainable_parameters()],
            "running": [buffer.clone() for buffer in self.slots.running_statistics()],
        }
        self.opitmizer_state_dict_cache = (
            None if self.optimizer is None else clone_nested(self.optimizer.state_dict())
        )

    def recover_states(self, clean: bool = True) -> None:
        """Put back what :meth:`cache_states` copied."""
        with torch.no_grad():
            cache = self.module_state_dict_cache
            assert cache is not None
            for p, value in zip(self.trainable_parameters(), cache["parameters"], strict=True):
                p.copy_(value)
            for buffer, value in zip(
                self.slots.running_statistics(), cache["running"], strict=True
            ):
                buffer.copy_(value)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(self.opitmizer_state_dict_cache)
        if clean:
            self.module_state_dict_cache = None
            self.opitmizer_state_dict_cache = None

    @property
    def differentiated(self) -> bool:
        """Whether levels above differentiate through the coming steps; for subclasses."""
        return True


class LowerProblem(BilevelProblem):
    """A level whose solution others differentiate through (LoRA factors on D_train, say).

    ``config.hypergradient`` says how; see :mod:`bilevel.hypergradient`.
    """

    @property
    def hypergradient(self) -> Hypergradient | None:
        """The estimator in use, None when ``config.type`` names one of Betty's own."""
        return estimator_of(self.config)


class UpperProblem(BilevelProblem):
    """A level that is trained through the solution of those below (gates on D_val, say).

    ``config.steps`` is T2; ``config.maximize`` ascends. A problem in the middle of three levels
    may be either class: all mechanics are in :class:`BilevelProblem`.
    """
