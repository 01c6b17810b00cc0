r"""Order the planted components by what the loss needs: greedy backward removal in the teacher.

From the whole teacher on, the component whose removal leaves the lowest loss goes next, and all
losses are computed anew after each removal:

    (l, j)_k = argmin over what is left of L(teacher without (l, j)_1, ..., (l, j)_{k-1}, (l, j)),

with L the mean cross-entropy to the teacher's own answers on fresh sequences. So for every total
there are ranks that the loss would choose, whatever the singular values are. Greedy is not optimal:
a pair that is useless together only, or needed together only, may go in the wrong order.

Of n components this takes n (n + 1) / 2 passes over `SEQUENCES`. They are run from the changed
layer on, and the last layer at the first word's place only, where the answer is read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertForSequenceClassification

from experiments.models.planted_networks import PlantedNetworks
from experiments.models.planted_problem import PlantedProblem

__all__ = ["Removal", "removal"]

SEQUENCES = 1024
TOLERANCE = 0.02  # of the loss between teacher and base: what may be lost for nothing


@dataclass(frozen=True)
class Removal:
    """The components of a teacher, from the first removed to the last.

    Attributes:
        names: full names of the matrices, in the model's order.
        order: n pairs of a matrix's name and a component's number in its update, from 0.
        losses: n + 1 losses: of the teacher, and after each removal; the last is the base's.
    """

    names: tuple[str, ...]
    order: tuple[tuple[str, int], ...]
    losses: tuple[float, ...]

    def ranks(self, total: int) -> dict[str, int]:
        """How many of each matrix's components are among the last ``total``; 0 is said too."""
        found = dict.fromkeys(self.names, 0)
        for name, _ in self.order[max(0, len(self.order) - total) :]:
            found[name] += 1
        return found

    def total_for(self, parameters: int, costs: Mapping[str, int]) -> int:
        """The largest total whose components have at most so many parameters.

        Args:
            parameters: in all.
            costs: parameters of one component of each matrix.
        """
        total = 0
        for name, _ in reversed(self.order):
            parameters -= costs[name]
            if parameters < 0:
                break
            total += 1
        return total

    def needed(self, tolerance: float = TOLERANCE) -> int:
        """The least total whose loss, and that of all larger ones, costs next to nothing.

        Args:
            tolerance: what the loss may be above the teacher's, as a share of what the base's is.
        """
        limit = self.losses[0] + tolerance * (self.losses[-1] - self.losses[0])
        for removed, loss in enumerate(self.losses):
            if loss > limit:
                return len(self.order) - removed + 1
        return 0


@functools.cache
@torch.no_grad()
def removal(problem: PlantedProblem) -> Removal:
    """Remove everything, one component after the other; kept in memory for each problem."""
    networks = PlantedNetworks(problem)
    ids = networks.sequences(SEQUENCES, networks.generator("removal"))
    teacher = networks.teacher()
    labels = teacher(input_ids=ids).logits.argmax(1)
    # In single precision, which is twice as fast: what removals cost differs by far more.
    passes = _Passes(teacher.float(), ids)
    updates = networks.updates()
    parts = {name: update.components().float() for name, update in updates.items()}
    left = [(name, j) for name, update in parts.items() for j in range(len(update))]
    order, losses = [], [float(functional.cross_entropy(passes.outputs(), labels))]
    while left:
        found = [
            float(functional.cross_entropy(passes.outputs(name, parts[name][j]), labels))
            for name, j in left
        ]
        least = min(range(len(left)), key=found.__getitem__)
        name, j = left.pop(least)
        passes.remove(name, parts[name][j])
        order.append((name, j))
        losses.append(found[least])
    return Removal(tuple(parts), tuple(order), tuple(losses))


class _Passes:
    """A planted problem's transformer on fixed sequences, with its layers' inputs kept.

    Args:
        model: the teacher; it is left as it is.
        ids: (n, length).
    """

    def __init__(self, model: BertForSequenceClassification, ids: Tensor) -> None:
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        self.layers, self.heads = model.config.num_hidden_layers, model.config.num_attention_heads
        self.epsilon = model.config.layer_norm_eps
        # One for each layer, and what the last one puts out.
        self.inputs = [model.bert.embeddings(ids)]
        self._refresh(0)

    def outputs(self, name: str | None = None, less: Tensor | None = None) -> Tensor:
        """Logits (n, classes), with ``less`` taken off the matrix of that name for this once."""
        changed = {} if name is None else {name: self.weights[f"{name}.weight"] - less}
        first = self._layer_of(name)
        state = self.inputs[first]
        for i in range(first, self.layers):
            state = self._layer(i, state, changed)
        pooled = torch.tanh(self._linear("bert.pooler.dense", state[:, 0], changed))
        return self._linear("classifier", pooled, changed)

    def remove(self, name: str, less: Tensor) -> None:
        """Take ``less`` off a matrix for good."""
        self.weights[f"{name}.weight"] -= less
        self._refresh(self._layer_of(name))

    def _layer_of(self, name: str | None) -> int:
        """The layer that a matrix is in; behind the last one for what is in none."""
        if name is None or ".layer." not in name:
            return self.layers
        return int(name.split(".layer.")[1].split(".")[0])

    def _refresh(self, first: int) -> None:
        del self.inputs[first + 1 :]
        for i in range(first, self.layers):
            self.inputs.append(self._layer(i, self.inputs[i], {}))

    def _layer(self, i: int, state: Tensor, changed: Mapping[str, Tensor]) -> Tensor:
        start = f"bert.encoder.layer.{i}."
        asking = state[:, :1] if i == self.layers - 1 else state

        def heads(name: str, of: Tensor) -> Tensor:
            rows = self._linear(f"{start}attention.self.{name}", of, changed)
            return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = heads("query", asking), heads("key", state), heads("value", state)
        attention = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        mixed = (attention @ value).transpose(1, 2).flatten(2)
        mixed = self._linear(f"{start}attention.output.dense", mixed, changed)
        middle = self._norm(f"{start}attention.output.LayerNorm", asking + mixed)
        inner = torch.tanh(self._linear(f"{start}intermediate.dense", middle, changed))
        inner = self._linear(f"{start}output.dense", inner, changed)
        return self._norm(f"{start}output.LayerNorm", middle + inner)

    def _linear(self, name: str, x: Tensor, changed: Mapping[str, Tensor]) -> Tensor:
        weight = changed.get(name, self.weights[f"{name}.weight"])
        return functional.linear(x, weight, self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)
