"""Check what a configuration asks for and make its small objects; nothing heavy is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel import launcher
from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient
from bilevel.settings import from_values
from experiments.config.composition import plain
from experiments.config.instantiate import build, user_modules
from experiments.config.learning_rates import own_rates
from experiments.config.schema import SECTIONS, EngineOptions, Root, RunOptions, TrainOptions
from experiments.models.spec import ModelSpec
from experiments.tasks.task import Task
from experiments.training import trackers, warm_start
from problems.common.method import Method
from problems.common.records import TrainSettings
from problems.common.two_levels import TwoLevelMethod

__all__ = ["Plan"]

log = logging.getLogger(__name__)

NAMED_TARGETS = ("qv", "all")  # train.target_modules beside names of modules


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        names: the option chosen of each group, for results and messages.
        config: the whole configuration as plain values.
        places: where adapters go: "qv", "all" or module names.
        report_to: trackers that follow the run.
        probe: hold the run against a linear probe at its end.
        processes: that a batch of ``settings.batch_size`` is made of, train.batch_size each.

    Raises:
        UserError: parts that do not go together: the method cannot train a quantised model or one
            in bfloat16, takes no list of targets or not this estimator, the task has a model of
            its own, or the model cannot start from the run that it is to start from.
    """

    seed: int
    method: Method
    task: Task
    model: ModelSpec
    hypergradient: Hypergradient
    settings: TrainSettings
    places: str | list[str]
    engine: EngineOptions
    resume: bool
    figures: bool
    names: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    report_to: tuple[str, ...] = ()
    probe: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        self._check_precision()
        self._check_sharding()
        if not self.method.takes_targets and self.places not in NAMED_TARGETS:
            given = self.places if isinstance(self.places, str) else f"[{', '.join(self.places)}]"
            raise UserError(
                f"train.target_modules={given}: method {self.chosen} has places of its own and "
                "takes no names of modules; leave it at null"
            )
        ratio = self.settings.lora_plus_ratio
        if ratio is not None and not self.method.two_rates:
            raise UserError(
                f"train.lora_plus_ratio={ratio:g} is for methods that train LoRA's two factors at "
                f"one rate, and method {self.chosen} does not: leave it at null"
            )
        self.method.check_hypergradient(self.hypergradient)
        self.task.check_model(self.model)
        warm_start.check(self.model)

    @property
    def chosen(self) -> str:
        """The method as it was asked for: full_qv, where the class says full."""
        return self.names.get("method", self.method.name)

    def of_processes(self, processes: int) -> Plan:
        """The same with the batches of several processes together, train.batch_size of each."""
        one = self.settings.batch_size // self.processes
        settings = replace(self.settings, batch_size=processes * one)
        return replace(self, settings=settings, processes=processes)

    def _check_sharding(self) -> None:
        if self.engine.shard is None:
            return
        if launcher.processes() == 1:
            raise UserError(
                "engine.shard=base shares the base out over processes, and there is one: start "
                "several with torchrun --nproc-per-node=N -m experiments.run, or take "
                "engine.shard=null"
            )
        if self.model.quantised:
            raise UserError(
                "engine.shard=base and model.quantization do not go together, as bitsandbytes' "
                "packed weights lose what unpacks them when they are shared out: take one of them"
            )
        why = self.method.needs_whole_base
        if why:
            raise UserError(f"engine.shard=base: method {self.chosen} {why}")
        if self.probe:
            raise UserError(
                "engine.shard=base and run.probe=true do not go together, as a probe reads what a "
                "whole model puts out: take run.probe=false"
            )
        if self.hypergradient.twice:
            raise UserError(
                f"engine.shard=base: hypergradient {self.hypergradient.name} is to differentiate "
                "gradients again, for which the base must be whole: take "
                "hypergradient.product=central_difference"
            )

    def _check_precision(self) -> None:
        method, model = self.method, self.model
        if method.trains_weights and model.quantised:
            raise UserError(
                f"method {self.chosen} trains the model's own weights, and those of model "
                f"{model.name} are quantised: take a method with adapters, or "
                "model.quantization=null"
            )
        if model.dtype != "float32":
            if method.trains_weights:
                raise UserError(
                    f"method {self.chosen} trains the model's own weights, which must be in "
                    "float32: take model.dtype=float32, or a method with adapters"
                )
            if self.settings.precision == "fp32":
                raise UserError(
                    f"engine.precision=fp32 and model.dtype={model.dtype} do not go together: "
                    "take engine.precision=bf16, or model.dtype=float32"
                )
        if method.moves_base and (model.quantised or model.dtype != "float32"):
            raise UserError(
                f"{vars(method)['peft'].told()} takes a part of the pretrained weights into the "
                f"factors, and those of model {model.name} are packed or in half precision, which "
                "would lose digits of it: take model.quantization=null model.dtype=float32"
            )
        if method.reads_weights and model.quantization == "8bit":
            import torch  # only here does a check need to know the hardware

            if not torch.cuda.is_available():
                raise UserError(
                    f"method {self.chosen} reads the pretrained weights, which packed in 8 bits "
                    "cannot be read without a GPU: take model.quantization=4bit"
                )

    @classmethod
    def of(cls, config: DictConfig, hydra_config: Any = None) -> Plan:
        """Check a composed configuration and build its small objects.

        Args:
            config: the configuration; with Hydra's own part unless ``hydra_config`` is given.
            hydra_config: Hydra's own part.

        Raises:
            UserError: a value that is unknown, missing, of the wrong type or out of range.
        """
        hydra_part = hydra_config or config.hydra
        sources = hydra_part.runtime.config_sources  # of the command line that is being run
        modules = user_modules(s.path for s in sources if s.schema == "file")
        values = plain(config)
        for name in ("seed", *SECTIONS):
            if name not in values:
                raise UserError(f"{name} is missing from the configuration: it was deleted by ~")
        seed = from_values(Root, {"seed": values["seed"]}, "").seed
        engine = from_values(EngineOptions, values["engine"], "engine")
        run = from_values(RunOptions, values["run"], "run")
        train = from_values(TrainOptions, values["train"], "train")
        spec = build(config.model, "model", ModelSpec, modules)
        # Unresolved: a word may itself hold an interpolation.
        given = OmegaConf.to_container(hydra_part.overrides.task, resolve=False)
        assert isinstance(given, list)
        _check_warm_up(train.warmup_steps, given)
        choices = hydra_part.runtime.choices
        names = {group: str(name) for group, name in choices.items() if "/" not in group}
        if names.get("model") == "hub":
            names["model"] = spec.title
        method = build(config.method, "method", Method, modules)  # type: ignore[type-abstract]
        _warn_of_unused_lr(train.lr, values["method"])
        plan = cls(
            seed=seed,
            method=method,
            task=build(config.task, "task", Task, modules),  # type: ignore[type-abstract]
            model=spec,
            hypergradient=build(config.hypergradient, "hypergradient", Hypergradient, modules),  # type: ignore[type-abstract]
            settings=train.settings(engine.precision, spec.lr),
            places=train.target_modules or method.targets or "qv",
            engine=engine,
            resume=run.resume is not None,
            figures=run.figures,
            names=names,
            config=values,
            probe=run.probe,
            report_to=tuple(dict.fromkeys(run.report_to or ())),
        )
        _warn_of_unused(method, train.target_modules, engine.check_hypergradient_every, given)
        trackers.check_installed(plan.report_to)
        spec.source()  # last: a model that is not there matters less than a slip in an option
        return plan


def _check_warm_up(steps: int | None, given: Sequence[Any]) -> None:
    """Raise UserError if a warm-up is given as a number of steps and as a share of them too.

    Args:
        steps: train.warmup_steps.
        given: the words of the command line.
    """
    for word in given if steps is not None else ():
        key, _, value = word.lstrip("+").partition("=")
        share = key.startswith("method.") and key.endswith(".warmup_ratio")
        if share and value not in ("0", "0.0"):  # which says that a level has no warm-up
            raise UserError(
                f"train.warmup_steps={steps} and {key}={value} are both given: the first takes the "
                "place of every warmup_ratio that is not 0, so give one of them"
            )


def _warn_of_unused(method: Method, targets: Any, every: int, given: Sequence[Any]) -> None:
    """Say which of the options given do nothing with a method; a sweep shares them over methods.

    Args:
        method: with one level or two, and with adapters that go anywhere or not.
        targets: train.target_modules.
        every: engine.check_hypergradient_every.
        given: the words of the command line.
    """
    if targets is not None and not method.takes_targets:
        log.warning(
            "train.target_modules=%s is not used: method %s has places of its own",
            *(targets, method.name),
        )
    if isinstance(method, TwoLevelMethod):
        return
    keys = [str(word).lstrip("+").partition("=")[0] for word in given]
    if any(key.split(".")[0] == "hypergradient" for key in keys):
        log.warning("hypergradient is not used: method %s has one level", method.name)
    if every:
        log.warning(
            "engine.check_hypergradient_every=%d is not used: method %s has one level",
            *(every, method.name),
        )


def _warn_of_unused_lr(lr: float | None, method: dict[str, Any]) -> None:
    """Say so when train.lr is given and every optimiser of the weights has a rate of its own."""
    own = own_rates(method)
    if lr is not None and own:
        given = ", ".join(f"{name}={value:g}" for name, value in own.items())
        log.warning("train.lr=%g is not used: the method has %s, which takes precedence", lr, given)
