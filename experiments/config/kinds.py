"""Say what a class must be to be named by the configuration of each group."""

from __future__ import annotations

from bilevel.hypergradient.base import Hypergradient
from experiments.models.spec import ModelSpec
from experiments.tasks.task import Task
from problems.common.method import Method

__all__ = ["KINDS"]

KINDS: dict[str, type] = {
    "method": Method,
    "task": Task,
    "model": ModelSpec,
    "hypergradient": Hypergradient,
}
