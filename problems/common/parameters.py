"""Find, count and choose the parameters that are trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from problems.common.build_optimizer import Parameters

__all__ = [
    "at_two_rates",
    "count",
    "in_full_precision",
    "train_only",
    "trainable",
    "without_decay",
]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def in_full_precision(model: nn.Module) -> None:
    """Hold in float32 what is trained of a model whose frozen weights are in half precision.

    A step of 1e-4 of a weight is rounded away in bfloat16, which has three digits. PEFT does so
    with the factors that it adds; this is for the model's own weights.
    """
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.element_size() < 4]
        if any(p.requires_grad for p in own):
            # Norms take weight and bias in one precision; autocast sees to those of linear maps.
            whole = "norm" in type(module).__name__.lower()
            for parameter in own:
                if whole or parameter.requires_grad:
                    parameter.data = parameter.data.float()


def count(parameters: Sequence[Tensor]) -> int:
    """Number of elements."""
    return sum(p.numel() for p in parameters)


def without_decay(
    parameters: Sequence[nn.Parameter], undecayed: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """The parameters in groups of an optimiser: those that its weight decay acts on, and the rest.

    Args:
        parameters: all that are trained.
        undecayed: those of them that the decay leaves alone.
    """
    spared = {id(p) for p in undecayed}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in spared]},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def at_two_rates(
    model: nn.Module, parameters: Parameters, lr: float, ratio: float
) -> list[dict[str, Any]]:
    """The parameters in groups of an optimiser: all but LoRA's B, and B at a rate of its own.

    LoRA+ (Hayou et al., ICML 2024, arXiv 2402.12354). PEFT's ``create_loraplus_optimizer`` gives
    B's rate to every vector as well, the head's biases among them; the paper's is of B alone.

    Args:
        model: with LoRA.
        parameters: of the level, all or some of the model's; of groups each is parted in two, whose
            other options (a weight decay of its own) stay as they are.
        lr: of the rest.
        ratio: B's rate over it.
    """
    ups = {id(p) for name, p in model.named_parameters() if ".lora_B." in name}
    given: Sequence[Any] = parameters
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    found = []
    for group in groups:
        for up, rate in ((False, lr), (True, lr * ratio)):
            members = [p for p in group["params"] if (id(p) in ups) is up]
            if members:
                found.append({**group, "params": members, "lr": rate})
    return found


def train_only(model: nn.Module, names: Collection[str], modules: Collection[str]) -> None:
    """Freeze all parameters but those named, and those of the named modules (the head)."""
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(f"{module}.") for module in modules)
        parameter.requires_grad_(inside or name in names)
