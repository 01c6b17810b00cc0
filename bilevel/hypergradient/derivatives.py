"""First and second derivatives of a replayed lower loss at given V and E."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bilevel.distributed import averaged
from bilevel.errors import UserError
from bilevel.replay.parameter_slots import ParameterSlots
from bilevel.replay.random_state import RandomState

if TYPE_CHECKING:
    from bilevel.problem import BilevelProblem

__all__ = [
    "ReplayedLoss",
    "check_double_backward",
    "check_options",
    "check_reentrant",
    "checkpoints_activations",
    "dot",
    "norm",
    "supports_double_backward",
    "vector_jacobian",
]

PRODUCTS = ("auto", "double_backward", "central_difference")


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two lists of tensors, a scalar tensor."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def norm(a: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of a list of tensors, a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in a]))


def supports_double_backward(lower: BilevelProblem) -> bool:
    """Whether the attention kernels of the problem's module can be differentiated twice.

    Eager attention can, and so can torch's scaled-dot-product attention through its math kernel,
    which a problem that needs it selects. Flash and flex attention kernels cannot.
    """
    kernels = {
        getattr(module.config, "_attn_implementation", None)
        for module in lower.module.modules()
        if hasattr(module, "config")
    }
    return kernels <= {None, "eager", "sdpa"}


def check_options(name: str, epsilon: float | None, product: str = "auto") -> None:
    """Check what estimators with second-order products have in common.

    Raises:
        UserError: an unknown ``product``, or a perturbation that is not positive.
    """
    if product not in PRODUCTS:
        raise UserError(
            f"hypergradient {name}: unknown product {product!r}; allowed: {', '.join(PRODUCTS)}"
        )
    if epsilon is not None and not epsilon > 0:
        raise UserError(f"hypergradient {name}: epsilon must be more than 0, got {epsilon}")


def check_double_backward(lower: BilevelProblem, product: str) -> None:
    """Refuse what cannot be differentiated twice.

    Raises:
        UserError: an attention kernel without double backward.
    """
    if product == "double_backward" and not supports_double_backward(lower):
        raise UserError(
            "product=double_backward needs attention that can be differentiated twice; load the "
            "model with attn_implementation=eager or sdpa, or use product=central_difference"
        )


def checkpoints_activations(module: nn.Module) -> bool:
    """Whether a transformer in ``module`` computes its activations again in backward passes."""
    return any(getattr(m, "gradient_checkpointing", False) for m in module.modules())


def check_reentrant(module: nn.Module) -> None:
    """Refuse re-entrant gradient checkpointing, which torch's ``autograd.grad`` cannot use.

    Raises:
        UserError: naming the other kind.
    """
    for part in module.modules():
        function = getattr(part, "_gradient_checkpointing_func", None)
        if getattr(part, "gradient_checkpointing", False) and getattr(function, "keywords", {}).get(
            "use_reentrant", False
        ):
            raise UserError(
                "gradient checkpointing is re-entrant, and gradients of two levels cannot pass "
                'through it; enable it with gradient_checkpointing_kwargs={"use_reentrant": False}'
            )


class ReplayedLoss:
    """L1 of recorded micro-batches as a function of V and E, randomness replayed.

    Args:
        lower: the problem with the loss.
        upper: the problem that owns E; ``None`` when derivatives in E are not asked for.
        batches: micro-batches with the random state to replay (``None``: as at construction).
        upper_values: E at which to evaluate; default: E as it is.
    """

    def __init__(
        self,
        lower: BilevelProblem,
        upper: BilevelProblem,
        batches: Sequence[tuple[Any, RandomState | None]],
        upper_values: Sequence[Tensor] | None = None,
    ) -> None:
        self._lower = lower
        self._lower_slots = _slots_of(lower)
        self._upper_slots = _slots_of(upper)
        self._upper_name = upper.name
        # What the other levels above were when ``lower`` took its steps.
        window = getattr(lower, "window", None)
        seen = {} if window is None else window.upper_values
        self._around = [
            (above.slots, seen[above.name])
            for above in getattr(lower, "ancestors", ())
            if above is not upper and above.name in seen and hasattr(above, "slots")
        ]
        # One state for all calls, so that two calls differ by their arguments alone.
        self._batches = [
            (batch, state or RandomState.capture(lower.device)) for batch, state in batches
        ]
        values = upper.trainable_parameters() if upper_values is None else upper_values
        self.upper_values = [value.detach().requires_grad_() for value in values]

    @contextmanager
    def _holding(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Let the modules hold V = ``weights`` and E, and use the lower problem's kernels.

        Not only for the forward pass: with gradient checkpointing a backward pass is one, too.
        """
        with ExitStack() as stack:
            stack.enter_context(self._lower_slots.holding(weights))
            stack.enter_context(self._upper_slots.holding(self.upper_values))
            for slots, values in self._around:
                stack.enter_context(slots.holding(values))
            stack.enter_context(getattr(self._lower, "kernels", nullcontext)())
            yield

    def _evaluate(self, micro: int) -> Tensor:
        """L1 of a micro-batch, inside :meth:`_holding`."""
        batch, state = self._batches[micro]
        with state.replayed():
            result = self._lower.training_step_exec(batch)
        loss = result["loss"] if isinstance(result, Mapping) else result
        self._lower_slots.verify(loss, self._lower.name)
        self._upper_slots.verify(loss, self._upper_name)
        return -loss if getattr(self._lower.config, "maximize", False) else loss

    def gradient(
        self, weights: Sequence[Tensor], wrt: str = "both"
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(dL1/dV, dL1/dE) at V = ``weights``; ``wrt="upper"`` leaves the first list empty."""
        leaves = [w.detach().requires_grad_() for w in weights]
        inputs = (leaves if wrt == "both" else []) + self.upper_values
        total: list[Tensor] | None = None
        for micro in range(len(self._batches)):
            with self._holding(leaves):
                grads = _gradient(self._lower, self._evaluate(micro), inputs)
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        assert total is not None
        total = [g / len(self._batches) for g in total]
        split = len(inputs) - len(self.upper_values)
        return total[:split], total[split:]

    def second_order(
        self,
        weights: Sequence[Tensor],
        direction: Sequence[Tensor],
        wrt: str = "both",
        product: str = "double_backward",
        epsilon: float = 1e-2,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(d2L1/dV2 u, d2L1/dEdV u) for u = ``direction``, at V = ``weights``.

        By double backward, or by a central difference of step ``epsilon / |u|``.
        """
        if product == "central_difference":
            step = epsilon / (norm(direction) + torch.finfo(torch.float32).tiny)
            above, below = (
                self.gradient([w + s * u for w, u in zip(weights, direction, strict=True)], wrt)
                for s in (step, -step)
            )
            return (
                [(a - b) / (2 * step) for a, b in zip(above[0], below[0], strict=True)],
                [(a - b) / (2 * step) for a, b in zip(above[1], below[1], strict=True)],
            )
        leaves = [w.detach().requires_grad_() for w in weights]
        inputs = (leaves if wrt == "both" else []) + self.upper_values
        total = [torch.zeros_like(x) for x in inputs]
        for micro in range(len(self._batches)):
            with self._holding(leaves):
                grads = _gradient(self._lower, self._evaluate(micro), leaves, graph=True)
                products = vector_jacobian(grads, inputs, direction)
            total = [a + b for a, b in zip(total, products, strict=True)]
        total = _average(self._lower, [g / len(self._batches) for g in total])
        split = len(inputs) - len(self.upper_values)
        return total[:split], total[split:]

    def hessian_operator(
        self, weights: Sequence[Tensor], product: str, epsilon: float = 1e-2
    ) -> tuple[Callable[[Sequence[Tensor]], list[Tensor]], Callable[..., list[Tensor]]]:
        """(u -> d2L1/dV2 u, u -> d2L1/dEdV u) at V = ``weights``, sharing one graph."""
        if product == "central_difference":
            return (
                lambda u: self.second_order(weights, u, "both", product, epsilon)[0],
                lambda u: self.second_order(weights, u, "upper", product, epsilon)[1],
            )
        leaves = [w.detach().requires_grad_() for w in weights]
        count = len(self._batches)
        with self._holding(leaves):
            graphs = [
                _gradient(self._lower, self._evaluate(micro), leaves, graph=True)
                for micro in range(count)
            ]

        def multiply(u: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
            total = [torch.zeros_like(x) for x in inputs]
            for grads in graphs:
                with self._holding(leaves):
                    part = vector_jacobian(grads, inputs, u, retain_graph=True)
                total = [a + b for a, b in zip(total, part, strict=True)]
            return _average(self._lower, [g / count for g in total])

        return lambda u: multiply(u, leaves), lambda u: multiply(u, self.upper_values)


def vector_jacobian(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    vector: Sequence[Tensor],
    retain_graph: bool = False,
) -> list[Tensor]:
    """(d outputs / d inputs)^T vector, zeros where there is no dependence."""
    live = [(o, v) for o, v in zip(outputs, vector, strict=True) if o.requires_grad]
    if not live:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(
        [o for o, _ in live],
        inputs,
        grad_outputs=[v.to(o.dtype) for o, v in live],
        retain_graph=retain_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]


def _slots_of(problem: Any) -> ParameterSlots:
    """The problem's parameter slots; worked out on the spot for a plain Betty problem."""
    slots = getattr(problem, "slots", None)
    return slots or ParameterSlots(problem.module, problem.trainable_parameters())


def _gradient(
    problem: Any, loss: Tensor, inputs: Sequence[Tensor], graph: bool = False
) -> list[Tensor]:
    if hasattr(problem, "gradient"):
        return problem.gradient(loss, inputs, create_graph=graph)
    grads = torch.autograd.grad(loss, inputs, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]


def _average(problem: Any, tensors: list[Tensor]) -> list[Tensor]:
    """Mean over ranks where the problem is trained on several."""
    world = getattr(problem, "world", None)
    return tensors if world is None or world.size == 1 else averaged(tensors, world)
