r"""Take tangents of weights, gradients and the optimiser's state through one step of it.

Forward mode needs the tangents of :math:`(w, s)_{t+1} = \Phi_t(w_t, g_t, s_t; h_t)`, the step of
:mod:`bilevel.hypergradient.optimizers`, from those of :math:`(w_t, g_t, s_t)` and, where upper
variables decide them, of its settings :math:`h_t` (learning rates and weight decays).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bilevel.hypergradient.derivatives import jacobian_vector
from bilevel.hypergradient.optimizer_state import OptimizerSnapshot, lay_flat, split_like
from bilevel.hypergradient.optimizers import advance, gather, or_zeros, scatter, set_by_tensors

__all__ = ["StepTangent", "step_jvp"]


@dataclass(frozen=True)
class StepTangent:
    """A direction in the space of what a step is taken with.

    Attributes:
        params, grads: of each parameter, and of its gradient.
        state: of each parameter's state tensors, by name; a name that is missing counts as zero.
        settings: of each param group's ``lr`` and ``weight_decay``, scalars; empty for constants.
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    state: Sequence[dict[str, Tensor]]
    settings: Sequence[Mapping[str, Tensor]] = field(default_factory=list)


def step_jvp(
    snapshot: OptimizerSnapshot,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    tangents: Sequence[StepTangent],
    max_norm: float = 0.0,
) -> list[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Tangents of (new params, new state), one pair for each of ``tangents``.

    A parameter without a gradient keeps its tangents.
    """
    with torch.no_grad():
        buckets = gather(snapshot, params, grads)
    if not buckets:
        return [(list(t.params), [dict(s) for s in t.state]) for t in tangents]
    leaves = [v for b in buckets for v in (b.params, b.grads, *b.state.values())]
    wanted = any(t.settings for t in tangents)
    set_by = [set_by_tensors(bucket) for bucket in buckets] if wanted else []
    leaves += [value for values in set_by for value in values.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.enable_grad():
        results = advance(buckets, max_norm)
    outputs = [vector for p, state in results for vector in (p, *state.values())]
    flat: list[list[Tensor]] = []
    for tangent in tangents:
        along: list[Tensor] = []
        for bucket in buckets:
            for part in (tangent.params, tangent.grads):
                along.append(lay_flat([part[i] for i in bucket.members]))
            for name in bucket.state:
                pieces = [tangent.state[i].get(name) for i in bucket.members]
                along.append(lay_flat(list(map(or_zeros, pieces, bucket.likes))))
        for bucket, values in zip(buckets, set_by, strict=False):  # none unless asked for
            of_group = tangent.settings[snapshot.group_of[bucket.members[0]]]
            along += [or_zeros(of_group.get(name), x).to(x) for name, x in values.items()]
        flat.append(along)
    moved = []
    for tangent, after in zip(tangents, jacobian_vector(outputs, leaves, flat), strict=True):
        found = iter(after)
        new_params, new_state = list(tangent.params), [dict(state) for state in tangent.state]
        for bucket, (_, state) in zip(buckets, results, strict=True):
            scatter(bucket, next(found), new_params)
            for name in state:
                for i, piece in zip(
                    bucket.members, split_like(next(found), bucket.likes), strict=True
                ):
                    new_state[i][name] = piece
        moved.append((new_params, new_state))
    return moved
