r"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): one level, one rank for every layer.

    W = W0 + (alpha / r) B A,       min over A, B and the head of  L(A, B; D_train + D_val)

The same engine, data order, schedule and evaluation as the bilevel methods, so that a comparison
compares the methods alone. Published settings for RoBERTa-base: r 8, alpha 16, AdamW, weight decay
0.1, linear schedule with 6 % warm-up, learning rate 4e-4 or 5e-4 by task. With ``settings`` modules
have decays, rates, weight decays, scales and dropout of their own (:mod:`problems.lora_settings`),
as ``method=learned_settings`` finds them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel import lowrank
from bilevel.data import split as split_indices
from bilevel.errors import UserError, listed
from bilevel.reading import json_object
from bilevel.settings import Share, plain
from bilevel.views import taken
from problems import common
from problems.common import (
    ALONE,
    DVal,
    Job,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    Stage,
    TrainData,
    Training,
    TrainSettings,
)
from problems.common.peft_options import PeftOptions
from problems.common.same_examples import mark, unseen
from problems.lora_settings.record import ModuleSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from problems.common import FineTuning

__all__ = [
    "DEFAULT_LR",
    "LoRA",
    "check_smoothed_once",
    "held_apart",
    "lora_training",
    "rows_apart",
    "train_lora",
]

log = logging.getLogger(__name__)

DEFAULT_LR = 5e-4  # where neither train.lr nor method.optimizer.lr is given


@dataclass(frozen=True)
class LoRA(LowRankMethod):
    """Plain LoRA on all of the training data."""

    name: ClassVar[str] = "lora"
    splits_fused: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = True
    two_rates: ClassVar[bool] = True
    refuses: ClassVar[dict[str, str]] = {}
    targets: str | None = None  # type: ignore[misc]
    """Where adapters go (qv, all) unless train.target_modules says otherwise; null for qv."""
    hold_out: Share = 0.0
    """Share of the training data kept out of the training and reported as validation_loss, for
    choosing a rank without the test set; 0 where the task has a validation split of its own."""
    ranks: str | None = None
    """ranks.json (or result.json) of a run, whose ranks the layers get instead of one for all;
    every layer's update is scaled as one of method.rank."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )
    """Of the factors and the head."""
    settings: ModuleSettings = field(default_factory=ModuleSettings)
    """Of single modules, as method=learned_settings saves them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        moved = [name for name in ("scale", "decay") if vars(self.settings)[name]]
        if self.peft.moves_base and moved:
            raise UserError(
                f"{self.peft.told()} does not go with method.settings.{moved[0]}, which would "
                "act on the part of the pretrained weights in the factors too: leave one of them "
                "out"
            )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Labels are smoothed by one number, and rates of modules are not those of factors.

        Raises:
            UserError: by two; both are given; or as of every method.
        """
        check_smoothed_once(self.settings.label_smoothing > 0, settings)
        if settings.lora_plus_ratio is not None and self.settings.given:
            raise UserError(
                f"train.lora_plus_ratio={settings.lora_plus_ratio:g} does not go with "
                "method.settings, which have learning rates of their own: leave one of them out"
            )
        super().check_steps(examples, settings)

    def given(self) -> dict[str, Any]:
        """What of ``method=lora`` trains the same again, plain values."""
        values = plain(self)
        return {
            name: values[name]
            for name in ("rank", "lora_alpha", "lora_dropout", "peft", "optimizer", "settings")
        }

    def check_size(self, examples: int, batch_size: int) -> None:
        """Also reads ``ranks``, so that a wrong file is told before a model is loaded.

        Raises:
            UserError: too few examples, or ``ranks`` is no file with ranks.
        """
        super().check_size(examples, batch_size)
        self.found_in_file()

    def check_model(self, model: PreTrainedModel, target_modules: Sequence[str]) -> None:
        """A rank is no larger than a layer, and like settings of a layer that there is.

        Raises:
            UserError: it is not.
        """
        self.settings.check_modules(target_modules, head=True)
        if silent := self.settings.silent_of(target_modules):
            log.warning(
                "method.settings names %d of the %d adapted modules; the others have the usual "
                "settings (%s): are they of a smaller model?",
                *(len(target_modules) - len(silent), len(target_modules), listed(silent[:3])),
            )
        found = self.found_in_file()
        if found is None:
            return super().check_model(model, target_modules)
        self.check_start(model, target_modules)
        unknown = sorted(set(found) - set(target_modules))
        for name in unknown:
            if parts := [part for part in target_modules if part.startswith(f"{name}.")]:
                raise UserError(
                    f"method.ranks={self.ranks} gives {name} one rank, as it is saved, and its "
                    f"parts are trained apart here ({listed(parts)}): train with lora_config.json "
                    "beside its adapters and a trainer of your own, or by ranks of a run's "
                    "result.json, which tell the parts"
                )
        if unknown:
            raise UserError(
                f"method.ranks={self.ranks} gives a rank to {listed(unknown[:3])}, which is not "
                "among the layers that are adapted here: they are those of another model, or of "
                "another train.target_modules"
            )
        if silent := [name for name in target_modules if name not in found]:
            raise UserError(
                f"method.ranks={self.ranks} says nothing of {len(silent)} of the "
                f"{len(target_modules)} layers that are adapted here ({listed(silent[:3])}): it is "
                "of another model, or of another train.target_modules; a layer without an adapter "
                "has rank 0 there"
            )
        for name, rank in found.items():
            if rank:
                common.check_rank(model, [name], rank, f"method.ranks={self.ranks}: rank")

    def found_in_file(self) -> dict[str, int] | None:
        """Layer -> rank, 0 included, as the file ``ranks`` says; None without one.

        Raises:
            UserError: there is no such file, or no layer in it has a rank above 0.
        """
        if self.ranks is None:
            return None
        path = Path(self.ranks)
        try:
            values = json_object(path, needs=["ranks"])
        except UserError as error:
            raise UserError(f"method.ranks={path}: {error}") from error
        found = values["ranks"]
        if found is None:
            raise UserError(f"method.ranks={path} holds no ranks: none were found in that run")
        right = isinstance(found, dict) and all(type(r) is int and r >= 0 for r in found.values())
        if not right or not any(found.values()):
            raise UserError(
                f'method.ranks={path} must hold {{"ranks": {{layer: rank}}}}, with whole numbers '
                "from 0 of which one or more is above 0; ranks.json of a run does"
            )
        scales = values.get("scales")
        if not (scales is None or _scales(scales)):
            raise UserError(f"method.ranks={path}: 'scales' must be {{layer: number above 0}}")
        odd = [name for name, rank in found.items() if rank % 2]
        if odd and self.peft.init_lora_weights == "orthogonal":
            raise UserError(
                f"method.peft.init_lora_weights=orthogonal needs even ranks, and "
                f"method.ranks={path} gives {odd[0]} the rank {found[odd[0]]}"
            )
        return found

    def _tell_scale(self, scale: float) -> None:
        """Say that the file's ranks were found at another scale than the one to train at."""
        said = json_object(Path(str(self.ranks))).get("scales")
        found = sorted({round(float(s), 6) for s in said.values()}) if said else []
        if found and any(abs(s - scale) > 1e-3 * scale for s in found):
            log.warning(
                "method.ranks=%s was found at a scale (alpha / r) of %s, and this run trains at %g "
                "(method.lora_alpha=%g, method.rank=%d)",
                *(self.ranks, listed([f"{s:g}" for s in found]), scale),
                *(self.lora_alpha, self.rank),
            )

    def held_out(self, own: bool) -> DVal:
        """With ``hold_out`` a part of the training data, else the task's own validation split."""
        return "apart" if own or self.hold_out else "nothing"

    def stages(self) -> Sequence[Stage]:
        """One stage, one problem."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, before: None) -> Training:
        """Every layer at the same rank, or its own, on all of the data but what is held out."""
        return self.trained(job, job.settings.epochs)

    def trained(self, job: Job, epochs: float) -> Training:
        """The same for ``epochs`` passes."""
        options: dict[str, Any] = {
            "r": self.rank,
            "lora_alpha": self.lora_alpha,
            "use_rslora": self.peft.use_rslora,
        }
        found = self.found_in_file()
        if found is not None:
            scale = self.peft.scale(self.lora_alpha, self.rank)
            self._tell_scale(scale)
            options = lowrank.lora_pattern(found, dict.fromkeys(found, scale))
        options["lora_dropout"] = self.lora_dropout
        training = lora_training(
            *(job, options, self.optimizer, epochs),
            hold_out=self.hold_out,
            settings=self.settings,
            peft=self.peft,
        )
        if found is None:
            return training
        # layers of rank 0 are no LoRA layers, and yet a part of what is told
        return replace(training, finish=lambda s: replace(training.finish(s), ranks=dict(found)))


def _scales(said: Any) -> bool:
    """Whether these are scales of layers."""
    return isinstance(said, dict) and all(type(s) in (int, float) and s > 0 for s in said.values())


def check_smoothed_once(smoothed: bool, settings: TrainSettings) -> None:
    """Refuse two label smoothings, or class weights beside a method's own smoothing.

    Raises:
        UserError: ``train.label_smoothing`` or ``train.class_weights`` is given, and the method
            smooths labels too.
    """
    if smoothed and settings.label_smoothing:
        raise UserError(
            f"train.label_smoothing={settings.label_smoothing:g} and the method's own "
            "label_smoothing are one setting: leave train.label_smoothing at 0"
        )
    if smoothed and settings.class_weights is not None:
        raise UserError(
            "train.class_weights does not go with a label_smoothing of the method's own: leave one "
            "of them out (train.label_smoothing goes with class weights)"
        )


def lora_training(
    job: Job,
    lora_options: dict[str, Any],
    optimizer: OptimizerSettings,
    epochs: float,
    default_lr: float = DEFAULT_LR,
    hold_out: float = 0.0,
    settings: ModuleSettings | None = None,
    peft: PeftOptions | None = None,
) -> Training:
    """LoRA with the given ``LoraConfig`` options, on the training data but ``hold_out``.

    ``peft`` tells where the factors start; the scale is in the options.
    """
    kept, _ = held_apart(job, hold_out)
    rows = taken(job.data.examples, kept)
    model = common.add_lora(job, job.build_model(), peft, rows, **lora_options)
    return train_lora(job, model, optimizer, epochs, default_lr, hold_out, settings)


def train_lora(
    job: Job,
    model: PeftModel,
    optimizer: OptimizerSettings,
    epochs: float,
    default_lr: float = DEFAULT_LR,
    hold_out: float = 0.0,
    settings: ModuleSettings | None = None,
    data: TrainData | None = None,
) -> Training:
    """Train the LoRA that a model has, on the training data but ``hold_out``, under its weights.

    Other ``data`` take the place of the job's.

    Raises:
        UserError: ``settings`` do not suit the model or the task, or there are weights too.
    """
    data = job.data if data is None else data
    train, held_out = held_apart(job, hold_out, data)
    batches = common.loader(job, train, numbered=data.weights is not None, data=data)
    steps = common.total_steps(job, batches, epochs)
    parameters = common.trainable(model)
    lr = job.settings.lr if job.settings.lr is not None else default_lr
    if settings is None or not settings.given:
        kind: Callable[..., FineTuning] = common.FineTuning
        if data.weights is not None:
            import torch

            from problems.common.weighted import Weighted

            weights = torch.tensor(list(data.weights))
            if not weights[list(train)].any():
                raise UserError("all weights of examples are 0: there is nothing to train on")
            kind = partial(Weighted, losses=job.example_losses, weights=weights, trained=train)
        problem = common.only_problem(kind, job, model, batches, optimizer, steps, lr)
    elif data.weights is not None:
        raise UserError(
            "settings of modules (method.settings) and weights of examples do not go together"
        )
    else:
        from problems.lora_settings import SetFineTuning, check_answers, follow
        from problems.lora_settings.model import rescale

        settings.check_modules(list(lowrank.lora_layers(model)), bool(job.head_modules))
        check_answers(job, settings.names())
        settings = rescale(model, settings)
        follow(model, settings, job)
        problem = common.only_problem(
            partial(SetFineTuning, values=settings),
            *(job, model, batches, optimizer, steps, lr),
            parameters=_at_their_steps(
                model,
                settings,
                lr if optimizer.lr is None else optimizer.lr,
                optimizer.weight_decay,
            ),
        )

    def finish(stats: dict[str, float]) -> Outcome:
        if settings is not None and settings.of("temperature") is not None:
            from problems.lora_settings import fold_temperature

            fold_temperature(model, settings, job.head_modules)
        layers = lowrank.lora_layers(model)
        return Outcome(
            model=model,
            ranks={name: int(layer.r["default"]) for name, layer in layers.items()},
            trainable_parameters=common.count(parameters),
            validation_loss=stats.get("validation_loss"),
            split={"train": len(train), **({"validation": len(held_out)} if held_out else {})},
        )

    return Training(
        [problem],
        ALONE,
        steps,
        model,
        finish,
        validation=taken(data.examples, held_out),
    )


def _at_their_steps(
    model: PeftModel, settings: ModuleSettings, lr: float, decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters in groups of one learning rate and one weight decay."""
    from problems.lora_settings import by_group

    groups: dict[tuple[float, float], list[Any]] = {}
    own = {name: name for name in lowrank.lora_layers(model)}
    for module, members in by_group(model, own).items():
        factor = settings.of("learning_rate", module)
        own_decay = settings.of("weight_decay", module)
        steps = (1.0 if factor is None else factor, decay if own_decay is None else own_decay)
        groups.setdefault(steps, []).extend(members)
    return [
        {"params": members, "lr": lr * factor, "weight_decay": own_decay}
        for (factor, own_decay), members in groups.items()
    ]


def held_apart(
    job: Job, hold_out: float, data: TrainData | None = None
) -> tuple[list[int], list[int]]:
    """Indices of the training data that are trained on, and of the share that is kept apart."""
    data = job.data if data is None else data
    count = len(data.examples)
    if not hold_out:
        return list(range(count)), []
    return split_indices(count, 1 - hold_out, job.seed, data.labels)


def rows_apart(
    job: Job, hold_out: float, own: bool = True, needed: int = 0
) -> tuple[Sequence[dict[str, Any]], str]:
    """Examples that the weights never trained on, and what they are of.

    An example that stands among the trained ones too, as data have repeats, is left out.

    Args:
        job: with the data.
        hold_out: share of the training data that is kept apart; 0 takes the validation split.
        own: whether no level trains on that split.
        needed: how many a cut needs; 0 where it needs none.

    Raises:
        UserError: repeats leave fewer.
    """
    examples = job.data.examples
    if hold_out:
        rest, held = held_apart(job, hold_out)
        rows: Sequence[dict[str, Any]] = taken(examples, held)
        trained = [taken(examples, rest), () if own else job.data.validation or ()]
        said = f"the training data, kept apart by method.hold_out={hold_out:g}"
    else:
        rows, trained = job.data.validation or () if own else (), [examples]
        said = "the validation file" if rows else "there are none"
    new = unseen(rows, itertools.chain(map(mark, itertools.chain(*trained)), job.data.seen))
    if (repeats := len(rows) - len(new)) == 0:
        return rows, said
    if len(new) < needed:
        before = ", or model.warm_start's run was," if job.data.seen else ""
        raise UserError(
            f"{repeats} of the {len(rows)} examples to cut by ({said}) stand in what is trained on"
            f"{before} too, and the cut needs {needed} others: leave repeats out of the data"
        )
    return new, f"{said}, but for {repeats} that stand in what was trained on too"
