"""Train on a finished run's data again, with plain LoRA: the plan and the job for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from bilevel.errors import UserError, listed
from bilevel.hypergradient.none import NoHypergradient
from bilevel.settings import from_values, plain
from experiments.config.instantiate import build, locate
from experiments.config.plan import Plan
from experiments.config.renamed import up_to_date
from experiments.config.schema import EngineOptions, TrainOptions
from experiments.results.finished_run import SavedRun
from experiments.results.labels import matched
from experiments.tasks.from_files import FromFiles
from experiments.tasks.loading import load_data
from experiments.tasks.sources import Sourced
from experiments.tasks.task import Task, TaskData
from problems.common import Method
from problems.lora import LoRA

__all__ = ["left_out", "plan_of", "trusting_task"]

# Options of some tasks that name trusted examples, beside a validation file.
WAYS = {
    "trusted_file": "task.trusted_file=FILE",
    "trusted": "task.trusted=N, so many training examples",
}
# Trusted examples, of which a part is held out from the rest.
LEAST = 4
# Of a method with LoRA's factors; of another they are LoRA's defaults.
SIZES = ("rank", "lora_alpha", "lora_dropout")
OPTIMIZERS = ("optimizer", "lower")  # of such factors, on one level or two
GROUPS = ("peft", "settings")  # of options of the factors that are not taken over
# What blurs a label's loss, or is of the run's length, where trusted examples take fewer steps.
PLAIN: dict[str, Any] = {"label_smoothing": 0.0, "class_weights": None, "warmup_steps": None}


def trusting_task(run: SavedRun) -> TaskData:
    """The run's data, training and trusted examples, drawn by the task's weights of sources.

    Raises:
        UserError: there are no trusted ones, or the data cannot be had.
    """
    kind: Any = Task
    task: Task = build(run.config.task, "task", kind, run.modules)
    if isinstance(task, FromFiles) and task.streaming:
        raise UserError(
            "task.streaming=true reads the training examples one after the other, and finding "
            "suspects needs single ones: give task.streaming=false"
        )
    read = load_data(task)
    data = matched(read, run.result, str(run.folder))
    if len(data.train) < len(read.train) or len(data.validation or ()) < len(read.validation or ()):
        strange = [n for n in read.answers.names or () if n not in run.result["labels"]]
        raise UserError(
            f"run={run.folder} was not trained for {listed(strange)}, which the training "
            f"or trusted data have now: its labels are {listed(run.result['labels'])}"
        )
    if not data.validation:
        ways = ["a file validation beside its test file"]
        ways += [said for option, said in WAYS.items() if hasattr(task, option)]
        raise UserError(
            f"run={run.folder}: suspects are found by trusted examples, and the run's task has "
            f"none: give it {', or '.join(ways)}"
        )
    if len(data.validation) < LEAST:
        raise UserError(
            f"run={run.folder}: the task has {len(data.validation)} trusted examples, and finding "
            f"suspects by them needs {LEAST} or more"
        )
    if isinstance(task, Sourced):
        data = replace(data, draw_weights=task.draw_weights(data.train))
    return data


def plan_of(run: SavedRun, examples: int) -> Plan:
    """LoRA on the run's task, as long and in such portions as the run has trained.

    Args:
        run: which.
        examples: of its training data; ``train.max_steps`` becomes a number of passes over these,
            as the trainings here are of parts of them and of trusted ones.

    Raises:
        UserError: what the run's folder says of its training is damaged.
    """
    said = run.result.get("configuration")
    place = f"{run.folder / 'result.json'}: configuration"
    if not isinstance(said, dict):
        raise UserError(f"{place} is missing: the run is of an older version")
    parts: dict[str, dict[str, Any]] = {}
    for name in ("train", "engine", "method"):
        options = said.get(name)
        if not isinstance(options, dict):
            raise UserError(f"{place} is damaged: {name!r} is no group of options")
        parts[name] = options
    train = replace(from_values(TrainOptions, parts["train"], "train"), **PLAIN)
    if train.max_steps is not None:
        # Of a method on two levels these are global steps, of T1 lower ones each.
        steps = train.max_steps * ((run.result.get("engine") or {}).get("T1") or 1)
        each = min(train.batch_size * train.gradient_accumulation, examples)  # a pass ends its step
        passes = steps * each / examples
        train = replace(train, max_steps=None, epochs=min(train.epochs, passes))
    if parts["engine"].get("early_stopping") or run.result.get("lora"):
        found = _passes_found(run.result, train.batch_size * train.gradient_accumulation, examples)
        train = replace(train, epochs=min(train.epochs, found))
    kept: dict[str, Any] = {
        key: parts["engine"][key] for key in ("precision", "strategy") if key in parts["engine"]
    }
    engine = from_values(EngineOptions, kept, "engine")
    sizes = {key: parts["method"][key] for key in SIZES if key in parts["method"]}
    optimizers = (parts["method"].get(key) for key in OPTIMIZERS)
    optimizer = next(filter(None, optimizers), None)
    if optimizer is not None and "rank" in sizes:  # full fine-tuning has other rates
        sizes["optimizer"] = optimizer
    method = from_values(LoRA, sizes, "method")
    spec = run.spec()
    kind: Any = Task
    # With what is given now. A run that was started from another keeps saying so: by that its
    # trainings here know that they have to keep the weights that they began with, too.
    own: dict[str, Any] = {
        name: OmegaConf.to_container(run.config[name]) for name in ("model", "task")
    }
    configuration = {
        **own,
        "train": plain(train),
        "seed": int(run.config.seed),
        "method": {"_target_": "problems.lora.LoRA", **plain(method)},
        "engine": plain(engine),
        "hypergradient": {"_target_": "bilevel.hypergradient.NoHypergradient"},
        "run": {"resume": None, "figures": True},
    }
    return Plan(
        seed=int(run.config.seed),
        method=method,
        task=build(run.config.task, "task", kind, run.modules),
        model=spec,
        hypergradient=NoHypergradient(),
        settings=train.settings(engine.precision, spec.lr),
        places=train.target_modules or _targets(parts["method"], run.modules),
        engine=engine,
        resume=False,
        figures=True,
        names={"method": "lora", "task": run.result["task"], "model": run.result["model"]},
        config=configuration,
    )


def _passes_found(result: Mapping[str, Any], batch: int, examples: int) -> float:
    """After how many passes a run that found its own length had the weights that it ended with.

    Args:
        result: what its result.json says.
        batch: examples of a step.
        examples: of the training data, which a search of settings trains on in the end; what was
            stopped early was trained on the part that was not held out.
    """
    stages = list((result.get("kept") or {}).items())
    if not stages:  # of an older version
        return math.inf
    name, kept = stages[-1]
    engine = result["engine"]
    each = engine["T1"] if engine.get("upper_steps", {}).get(name) is not None else 1
    own = examples if result.get("lora") else min(result["data"]["train"], examples)
    return float(max(kept["step"], 1) * each * min(batch, own) / own)


def left_out(run: SavedRun) -> list[str]:
    """What the run was trained with and :func:`plan_of` does not take over, in words."""
    said = run.result.get("configuration", {})
    train, method = said.get("train", {}), said.get("method", {})
    given = {key: train.get(key, value) for key, value in PLAIN.items()}
    found = [f"train.{key}={value}" for key, value in given.items() if value != PLAIN[key]]
    usual = plain(LoRA())
    if method.get("ranks") is not None:
        found.append("method.ranks")
    for group in GROUPS:
        options = method.get(group) or {}
        known = {key: value for key, value in options.items() if key in usual[group]}
        differ = [key for key, value in known.items() if value != usual[group][key]]
        found += [f"method.{group}.{key}" for key in differ if key != "found_with"]
    if run.result.get("lora"):
        found.append("the settings that its search found")
    if method.get("hold_out"):
        found.append(f"method.hold_out={method['hold_out']:g}")
    return found


def _targets(options: dict[str, Any], modules: Sequence[str]) -> str:
    """Where the run's method puts its adapters, unless it is told.

    Raises:
        UserError: the method is a class of the user's own, in a folder that was not named.
    """
    said = options.get("targets")
    if said is None:
        kind: Any = Method
        said = locate(str(up_to_date(options).get("_target_")), "method", kind, modules).targets
    return str(said or "qv")
