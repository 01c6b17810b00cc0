"""Help several estimators: what can be differentiated twice, how far to move, a step's adjoints."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from bilevel.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bilevel.hypergradient.optimizers import StepAdjoints
    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.recording import StepRecord

__all__ = [
    "Product",
    "check_double_backward",
    "check_parent",
    "check_plain_steps",
    "check_reentrant",
    "checkpoints_activations",
    "resolve_product",
    "step_back",
    "step_size",
    "step_through",
]

Product = Literal["auto", "double_backward", "central_difference"]
"""How to take second-order products; ``auto`` is the former where the attention kernel has one."""


def step_size(epsilon: float | None, lower: LowerLevel, difference: str = "central") -> float:
    """Length |eps v| of the perturbation; None chooses by the precision of the loss.

    Measured on MiniLM, SST-2, dropout 0.1 (docs/hypergradients.md): in fp32 a central difference is
    best at 0.01 (error 2e-4) and a forward one at 0.001 (1e-3); with bf16's 8 bits of mantissa
    rounding wants 0.1 (central 3e-2, forward 1.5e-1).
    """
    if epsilon is not None:
        return epsilon
    if lower.precision != "fp32":
        return 1e-1
    return 1e-2 if difference == "central" else 1e-3


def resolve_product(product: str, lower: LowerLevel) -> str:
    """``auto`` becomes double backward where the attention kernel has one and the base is whole."""
    if product != "auto":
        return product
    possible = not lower.world.shards_base and supports_double_backward(lower.module)
    return "double_backward" if possible else "central_difference"


def supports_double_backward(module: nn.Module) -> bool:
    """Whether the attention kernels of a module can be differentiated twice.

    Eager attention can, and so can torch's scaled-dot-product attention through its math kernel,
    which a problem that needs it selects. Flash and flex attention kernels cannot.
    """
    kernels = {
        getattr(part.config, "_attn_implementation", None)
        for part in module.modules()
        if hasattr(part, "config")
    }
    return kernels <= {None, "eager", "sdpa"}


def check_double_backward(lower: LowerLevel, product: str) -> None:
    """Refuse what cannot be differentiated twice.

    Raises:
        UserError: an attention kernel without double backward, or a base that is shared out.
    """
    if product == "double_backward" and lower.world.shards_base:
        raise UserError(
            "product=double_backward and shard=base do not go together: what a pass has gathered "
            "is gone when it would be differentiated again; use product=central_difference"
        )
    if product == "double_backward" and not supports_double_backward(lower.module):
        raise UserError(
            "product=double_backward needs attention that can be differentiated twice; load the "
            "model with attn_implementation=eager or sdpa, or use product=central_difference"
        )


def check_plain_steps(lower: LowerLevel, name: str) -> None:
    """Refuse lower steps of which the estimator ``name`` would not know all that they do.

    Raises:
        UserError: an optimiser that is not torch's SGD, Adam or AdamW, or a hook that may change
            what a step does.
    """
    from bilevel.hypergradient.optimizer_state import check_supported

    check_supported(lower.optimizer)
    for hook in ("custom_optimizer_step", "grad_callback", "param_callback"):
        if lower.is_implemented(hook):
            raise UserError(
                f"hypergradient {name} cannot differentiate the {hook} of problem {lower.name!r}, "
                "which may change what a step does; use hypergradient=finite_difference"
            )


def check_parent(lower: LowerLevel, upper: UpperLevel, name: str) -> None:
    """Refuse a level that ``lower`` does not wait for.

    Raises:
        UserError: ``upper`` is updated beside the steps of ``lower``.
    """
    if upper not in lower.parents:
        raise UserError(
            f"hypergradient {name} differentiates problem {lower.name!r} with respect to a "
            f"problem that is updated beside it ({upper.name!r}); use finite_difference there"
        )


def checkpoints_activations(module: nn.Module) -> bool:
    """Whether a transformer in ``module`` computes its activations again in backward passes."""
    return any(_recomputes(part) for part in module.modules())


def _recomputes(part: nn.Module) -> bool:
    return getattr(part, "gradient_checkpointing", False)


def check_reentrant(module: nn.Module) -> None:
    """Refuse re-entrant gradient checkpointing, which torch's ``autograd.grad`` cannot use.

    Raises:
        UserError: naming the other kind.
    """
    for part in module.modules():
        function = getattr(part, "_gradient_checkpointing_func", None)
        chosen = function.keywords if isinstance(function, functools.partial) else {}
        if _recomputes(part) and chosen.get("use_reentrant", False):
            raise UserError(
                "gradient checkpointing is re-entrant, and gradients of two levels cannot pass "
                'through it; enable it with gradient_checkpointing_kwargs={"use_reentrant": False}'
            )


def step_through(
    step: StepRecord, adjoint: Sequence[Tensor], state: Sequence[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
    """Adjoints (V, g, s) before an optimiser step from adjoints (V, s) after it."""
    params, grads, before, _ = step_back(step, adjoint, state)
    return params, cast("list[Tensor]", grads), before


def step_back(
    step: StepRecord,
    adjoint: Sequence[Tensor],
    state: Sequence[dict[str, Tensor]],
    settings: bool = False,
) -> StepAdjoints:
    """The same, with the adjoints of the optimiser's settings if asked for; zeros for None."""
    import torch

    from bilevel.hypergradient.optimizers import step_adjoints

    assert step.snapshot is not None
    weights = [w.detach() for w in step.weights]
    found = step_adjoints(
        *(step.snapshot, weights, step.gradient, list(adjoint), list(state)),
        max_norm=step.max_norm,
        settings=settings,
    )
    filled: list[Tensor | None] = [
        torch.zeros_like(w) if a is None else a for a, w in zip(found.grads, weights, strict=True)
    ]
    return found._replace(grads=filled)
