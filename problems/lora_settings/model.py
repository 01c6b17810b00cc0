r"""Let a PEFT model follow settings for each module, fixed ones or functions of upper variables.

- scale: what B puts out is multiplied by c, in training and in evaluation.
- dropout: Gaussian dropout (Srivastava et al., JMLR 2014, section 10) in the place of Bernoulli's,
  x (1 + sqrt(p / (1 - p)) z), z ~ N(0, 1): the same mean and variance, and a derivative by p
  through the drawn z, which Bernoulli's masks have not. A fixed p is ordinary dropout.
- label smoothing: the model's loss in training.
- temperature: the head's last linear map divided by tau, in training and in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from bilevel.errors import UserError
from bilevel.lowrank import lora_layers
from problems.lora_settings.record import ModuleSettings, Values
from problems.lora_settings.smoothed_loss import SmoothedLoss

if TYPE_CHECKING:
    from problems.common import Job

__all__ = [
    "GaussianDropout",
    "check_answers",
    "fold_temperature",
    "follow",
    "last_linear",
    "rescale",
]

Number = Callable[[], Any]


class GaussianDropout(nn.Module):
    """Multiplicative noise with the mean and variance of dropout; none in evaluation mode.

    Args:
        share: gives p in [0, 1), a scalar tensor, anew in each forward pass.

    Attributes:
        draws: it draws at random, as :func:`bilevel.evaluation.draws_masks` has to know.
    """

    draws: ClassVar[bool] = True

    def __init__(self, share: Number) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (of any shape) with its noise."""
        if not self.training:
            return x
        p = self.share().to(x)
        return x * (1 + torch.sqrt(p / (1 - p)) * torch.randn_like(x))


def follow(model: PeftModel, values: Values, job: Job) -> None:
    """Make a LoRA model follow ``values``, read anew in each forward pass.

    Learning rates and decays are the problem's (:class:`SetFineTuning`).

    Args:
        model: with LoRA; what it follows is not among its modules or parameters.
        values: numbers, or functions of upper variables.
        job: tells the task's type and the head.

    Raises:
        UserError: a temperature without a head that is trained.
    """
    for name, layer in lora_layers(model).items():
        if values.of("scale", name) is not None:
            scale = partial(values.of, "scale", name)
            layer.lora_B["default"].register_forward_hook(_Scaled(scale))
        dropout = values.of("dropout", name)
        if isinstance(dropout, float):
            layer.lora_dropout["default"] = nn.Dropout(dropout) if dropout else nn.Identity()
        elif dropout is not None:
            layer.lora_dropout["default"] = GaussianDropout(partial(values.of, "dropout", name))
    if values.of("label_smoothing") is not None:
        smoothed = SmoothedLoss(partial(values.of, "label_smoothing"), job.task_type == "CAUSAL_LM")  # type: ignore[arg-type]
        model.get_base_model().register_forward_hook(smoothed, with_kwargs=True)
    if values.of("temperature") is not None:
        tau = partial(values.of, "temperature")
        last_linear(model, job.head_modules).register_forward_hook(_Divided(tau))


def rescale(model: PeftModel, settings: ModuleSettings) -> ModuleSettings:
    """Multiply the modules' own scales alpha / r for good; returns the settings that are left."""
    for name, layer in lora_layers(model).items():
        layer.scaling["default"] *= settings.scale.get(name, 1.0)
    return replace(settings, scale={})


def check_answers(job: Job, names: Sequence[str]) -> None:
    """Refuse settings that only classes, tags and text have.

    Args:
        job: whose training data tell what is answered.
        names: of the settings.

    Raises:
        UserError: the labels are numbers, or sets of them.
    """
    if job.kind == "spans" and "label_smoothing" in names:
        raise UserError(
            "the setting label_smoothing is for tasks with classes, tags or text, and this one has "
            "answers in a text: leave it out"
        )
    labels = job.data.examples[0]["labels"]
    first = next(iter(labels), 0) if isinstance(labels, (list, tuple)) else labels
    wrong = [name for name in names if name in ("label_smoothing", "temperature")]
    if wrong and isinstance(first, float):
        raise UserError(
            f"the setting {wrong[0]} is for tasks with classes, tags or text, and this one has "
            "numbers or sets of labels: leave it out"
        )


def last_linear(model: PeftModel, head_modules: Sequence[str]) -> nn.Linear:
    """The linear map of a trained head that puts out the logits.

    Raises:
        UserError: there is no such head.
    """
    base = model.get_base_model()
    for name in reversed(head_modules):
        head = base.get_submodule(name)
        kept = head.modules_to_save["default"] if isinstance(head, ModulesToSaveWrapper) else head
        linear = [part for part in kept.modules() if isinstance(part, nn.Linear)]
        if linear:
            return linear[-1]
    raise UserError(
        "the setting temperature needs a head that is trained, and this model brings its own "
        "outputs: leave it out"
    )


@torch.no_grad()
def fold_temperature(model: PeftModel, values: Values, head_modules: Sequence[str]) -> None:
    """Divide the head's last linear map by tau for good, and take the hook away."""
    tau = values.of("temperature")
    if tau is None:
        return
    linear = last_linear(model, head_modules)
    for key, hook in list(linear._forward_hooks.items()):
        if isinstance(hook, _Divided):
            del linear._forward_hooks[key]
    for parameter in linear.parameters():
        parameter.div_(tau)


class _Scaled:
    """A forward hook; an object, so that models can be copied."""

    def __init__(self, factor: Number) -> None:
        self.factor = factor

    def __call__(self, module: Any, args: Any, output: Tensor) -> Tensor:
        factor = self.factor()
        return output * (factor.to(output) if isinstance(factor, Tensor) else factor)


class _Divided:
    """Likewise."""

    def __init__(self, divisor: Number) -> None:
        self.divisor = divisor

    def __call__(self, module: Any, args: Any, output: Tensor) -> Tensor:
        divisor = self.divisor()
        return output / (divisor.to(output) if isinstance(divisor, Tensor) else divisor)
