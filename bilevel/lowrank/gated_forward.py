"""Let the gates reach PEFT's layers, once per forward and at next to no cost.

PEFT reads ``lora_A.weight`` twice in a layer's forward (once only for its dtype), and a torch
parametrization recomputes at every read, through six Python calls. So a hook on the model computes
all effective weights ``gate[:, None] * A`` at the start of a forward, and inside the forward
reading a weight is a list look-up. Outside a forward the ordinary parametrization answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from bilevel.lowrank.gates import Gates

__all__ = ["GateWeight", "GatedForward", "chain_of", "install", "uninstall"]


def chain_of(down: nn.Module) -> parametrize.ParametrizationList:
    """Return the parametrizations of ``down.weight``; its ``original`` is the ungated A."""
    return cast(parametrize.ParametrizationList, cast(Any, down).parametrizations["weight"])


class GatedForward:
    """The effective weights of the forward under way, for all layers of one :class:`Gates`.

    ``downs`` are the layers' ``lora_A`` modules in the order of the gates' rows. This is no
    ``nn.Module``, and so neither the model nor a layer comes to own the gates by referring to it.
    """

    def __init__(self, gates: Gates, downs: Sequence[nn.Module]) -> None:
        self.gates = gates
        self.downs = list(downs)
        self._handles: list[RemovableHandle] = []
        self._forget()

    def _forget(self) -> None:
        self._owner: nn.Module | None = None
        self._current: list[Tensor] | None = None
        self._recorded: list[Tensor] | None = None

    def watch(self, *modules: nn.Module) -> None:
        """Compute the gates whenever one of ``modules`` (nested in one another) runs."""
        for module in modules:
            self._handles.append(module.register_forward_pre_hook(self.begin))
            # always_call: a forward that raises must not leave its values behind.
            self._handles.append(module.register_forward_hook(self.end, always_call=True))

    def unwatch(self) -> None:
        """Remove the hooks and drop all tensors."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    def begin(self, module: nn.Module, args: Any) -> None:
        """Compute all effective weights; runs before the outermost watched module."""
        if self._owner is not None:
            return
        values = self.gates.compute(sample=module.training)
        effective: list[Tensor] = [chain_of(down).original for down in self.downs]  # those of now
        if self.gates.phase != "open":
            # One unbind gives all rows one node of the graph; indexing gives each row its own.
            rows = values.unsqueeze(-1).unbind(0)
            effective = [A * gate.to(A) for A, gate in zip(effective, rows, strict=True)]
        self._owner, self._current = module, effective
        self.gates._in_use = values

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forget the values after the outermost watched module, also when it raised."""
        if self._owner is not module:
            return
        if torch.is_grad_enabled():
            self._recorded = self._current
        self._owner = self._current = self.gates._in_use = None

    def effective(self) -> list[Tensor] | None:
        """Return the effective weights in force, or None outside a forward.

        A read during back-propagation is gradient checkpointing recomputing a layer; it must see
        the very tensors of its forward (same noise, same graph).
        """
        if self._current is not None:
            return self._current
        if self._recorded is not None and torch._C._current_graph_task_id() != -1:
            return self._recorded
        return None

    def __getstate__(self) -> dict[str, Any]:
        # For copy.deepcopy of a model: torch refuses to copy tensors that carry a graph.
        return self.__dict__ | {"_owner": None, "_current": None, "_recorded": None}


class GateWeight(nn.Module):
    """The parametrization of one layer: A (k x in) -> gate[:, None] * A, with noise-free gates."""

    def __init__(self, forward_pass: GatedForward, row: int) -> None:
        super().__init__()
        self.forward_pass = forward_pass
        self.row = row

    def forward(self, A: Tensor) -> Tensor:
        """Return the effective weight, in A's dtype and on A's device."""
        return A * self.forward_pass.gates.values()[self.row].unsqueeze(-1).to(A)


def install(down: nn.Module, forward_pass: GatedForward, row: int) -> None:
    """Parametrize ``down.weight`` by row ``row`` of the gates, with the quick reading in front."""
    parametrize.register_parametrization(down, "weight", GateWeight(forward_pass, row))
    down.__dict__["gated_forward"] = forward_pass
    down.__dict__["gate_row"] = row
    # register_parametrization has given this one module a class of its own, so this touches no
    # other layer, and remove_parametrizations takes the property away with that class.
    setattr(type(down), "weight", property(_read_weight))  # noqa: B010 (mypy)


def _read_weight(down: nn.Module) -> Tensor:
    forward_pass: GatedForward = down.__dict__["gated_forward"]
    effective = forward_pass.effective()
    if effective is None:
        return cast(Tensor, chain_of(down)())
    return effective[down.__dict__["gate_row"]]


def uninstall(down: nn.Module) -> GatedForward | None:
    """Fold the gate into ``down.weight`` for good; return what was installed, None if nothing."""
    if "gated_forward" not in down.__dict__:
        return None
    parametrize.remove_parametrizations(down, "weight", leave_parametrized=True)
    del down.__dict__["gate_row"]
    return cast(GatedForward, down.__dict__.pop("gated_forward"))
