r"""Plant low-rank updates of known ranks in a random transformer.

A small BERT with random weights W0 is the pretrained model. In every target matrix l an update of a
known rank r_l is planted; base and updates together are the teacher, whose answers are the labels:

    W_l = W0_l + s_l sum_{j <= r_l} u_lj v_lj^T,     u_l, v_l orthonormal, drawn at random.

With `decay` 1 all singular values of an update are equal, so its rank is as well defined as a rank
can be; else value j (from 0) is s_l decay^j, and :mod:`experiments.models.planted_removal` says
what the loss needs of them. The student starts from W0 and has the teacher's head, frozen: LoRA
with rank r_l in every matrix l can become the teacher, LoRA with less somewhere cannot.

What is drawn is chosen so that every update shows in the labels and the student can find it:

| choice | why |
|---|---|
| query and key larger than BERT's 0.02 | else attention is uniform whatever the queries are |
| value and attention output below 1 | else all tokens of a sequence, and so all keys, grow alike |
| | with depth, and the deep queries change nothing |
| tanh, centred words, no special tokens | all is odd: no large constant part, in which an update |
| | would act on all sequences alike, as a bias would |
| queries' updates larger than values' | they act through the softmax only |
| head standardised on the teacher | every class occurs; answers are equally clear cut |

With `rescale` c > 1 base and teacher stay the same functions, in other coordinates: layer i has

    W_value -> a_i W_value,   W_output -> W_output / a_i,
    W_query -> b_i W_query,   W_key -> W_key / b_i,

a and b geometric from 1/c to c, each in a random order over the layers. Updates follow their
matrices, so that singular values of different matrices are no longer comparable: a layer with
a_i < 1 has small inputs, and large updates, in its attention output, and small updates in its
values, to the same effect.

Everything follows from `PlantedProblem.seed` by generators of its own, not from the global random
state, nor from the method's seed: several seeds of a method can be run on one problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from experiments.models.planted_problem import SPECIAL, PlantedProblem

__all__ = ["PlantedNetworks", "Update", "plant"]

PROBE_SEQUENCES = 1024  # the head is standardised on their outputs
SPARE_POSITIONS = 64  # for methods that put virtual tokens before a sequence
# Pairs of matrices of a layer whose product alone matters.
RESCALED = (
    ("attention.output.dense", "attention.self.value"),
    ("attention.self.key", "attention.self.query"),
)
POSITION_SIZE = 0.2  # standard deviation of position embeddings; that of words is 1


@dataclass(frozen=True)
class Update:
    """A planted update ``scale * u @ diag(decay^0, decay^1, ...) @ v.T`` of one matrix.

    Attributes:
        u: (out, r) orthonormal columns, float64.
        v: (in, r) orthonormal columns, float64.
        scale: the first of the r singular values.
        decay: each next one over the one before.
    """

    u: Tensor
    v: Tensor
    scale: float
    decay: float = 1.0

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.u.shape[1]

    def delta(self) -> Tensor:
        """The update itself, (out, in), float64."""
        return self.values() * self.u @ self.v.T

    def values(self) -> Tensor:
        """The singular values, (r,) float64, largest first."""
        return self.scale * self.decay ** torch.arange(self.rank, dtype=torch.float64)

    def components(self) -> Tensor:
        """The parts that the update is the sum of, (r, out, in) float64."""
        return torch.einsum("r,or,ir->roi", self.values(), self.u, self.v)


def plant(model: nn.Module, updates: dict[str, Update]) -> None:
    """Add the updates to the model's weights, in place and in its own precision."""
    with torch.no_grad():
        for name, update in updates.items():
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight += update.delta().to(weight.dtype)


class PlantedNetworks:
    """Base and teacher of a planted problem, and all else that is drawn for it.

    Args:
        problem: decides everything.
    """

    def __init__(self, problem: PlantedProblem) -> None:
        self.problem = problem

    def generator(self, stream: str, *more: int) -> torch.Generator:
        """Random numbers for one purpose, whatever else is drawn."""
        # Mixed, so that no method's torch.manual_seed(small number) draws the same ones.
        mixed = np.random.SeedSequence([self.problem.seed, *stream.encode(), *more])
        return torch.Generator().manual_seed(int(mixed.generate_state(1, np.uint32)[0]))

    def config(self) -> BertConfig:
        """The architecture."""
        config = BertConfig(
            vocab_size=len(SPECIAL) + self.problem.vocabulary,
            hidden_size=self.problem.hidden,
            num_hidden_layers=self.problem.layers,
            num_attention_heads=self.problem.heads,
            intermediate_size=2 * self.problem.hidden,
            hidden_act="tanh",
            max_position_embeddings=self.problem.length + SPARE_POSITIONS,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
            problem_type="single_label_classification",
        )
        config.num_labels = self.problem.classes
        return config

    def base(self) -> BertForSequenceClassification:
        """The pretrained model W0 with the teacher's head, float32, in evaluation mode."""
        model = self._without_head()
        self._set_head(model)
        return model

    def teacher(self) -> BertForSequenceClassification:
        """Base and updates, float64, in evaluation mode."""
        model = self._without_head().double()
        self._set_head(model)
        plant(model, self.updates())
        return model

    def true_ranks(self) -> dict[str, int]:
        """Rank of the planted update of each target, by its full name."""
        return {name: update.rank for name, update in self.updates().items()}

    def updates(self) -> dict[str, Update]:
        """The planted update of each target."""
        model = self._without_head()
        names = self.problem.target_names()
        draw = self.generator("updates")
        updates = {}
        for name, rank in zip(names, self._ranks(len(names)), strict=True):
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            strength = (
                self.problem.query_strength if name.endswith("query") else self.problem.strength
            )
            size = float(weight.detach().double().norm()) / math.sqrt(min(weight.shape))
            u, v = (_rotation(width, draw)[:, :rank] for width in weight.shape)
            updates[name] = Update(u, v, strength * size, self.problem.decay)
        return updates

    def _ranks(self, count: int) -> list[int]:
        if self.problem.ranks is not None:
            return list(self.problem.ranks)
        choices = range(self.problem.least_rank, self.problem.most_rank + 1)
        order = torch.randperm(count, generator=self.generator("ranks")).tolist()
        return [choices[place % len(choices)] for place in order]

    def sequences(self, count: int, draw: torch.Generator) -> Tensor:
        """Random sequences of words, ids (count, length)."""
        words = (len(SPECIAL), len(SPECIAL) + self.problem.vocabulary)
        return torch.randint(*words, (count, self.problem.length), generator=draw)

    def _without_head(self) -> BertForSequenceClassification:
        with torch.random.fork_rng(devices=[]):  # it draws weights that are replaced below
            model = BertForSequenceClassification(self.config())
        draw = self.generator("weights")
        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, nn.Linear):
                    deviation = self._gain(name) / math.sqrt(module.in_features)
                    module.weight.normal_(std=deviation, generator=draw)
                    module.bias.zero_()
                elif isinstance(module, nn.Embedding):
                    module.weight.normal_(generator=draw)
            embeddings = model.bert.embeddings
            embeddings.word_embeddings.weight -= embeddings.word_embeddings.weight.mean(0)
            embeddings.position_embeddings.weight *= POSITION_SIZE
            embeddings.token_type_embeddings.weight.zero_()
            self._rescale(model)
        return model.eval()

    def _rescale(self, model: BertForSequenceClassification) -> None:
        """Multiply and divide pairs of matrices by `rescale`'s factors, in place."""
        if self.problem.rescale == 1:
            return
        draw = self.generator("rescale")
        exponents = torch.linspace(-1, 1, self.problem.layers, dtype=torch.float64)
        for after, before in RESCALED:
            order = torch.randperm(self.problem.layers, generator=draw)
            factors = (self.problem.rescale**exponents)[order].tolist()
            for layer, factor in zip(model.bert.encoder.layer, factors, strict=True):
                for name, by in ((before, factor), (after, 1 / factor)):
                    layer.get_submodule(name).weight *= by

    def _gain(self, name: str) -> float:
        if name.endswith(("query", "key")):
            return self.problem.attention_gain
        if name.endswith(("value", "attention.output.dense")):
            return self.problem.value_gain
        return self.problem.gain

    def _set_head(self, model: BertForSequenceClassification) -> None:
        """Give the model a head whose outputs, on the teacher, have mean 0 and one deviation."""
        teacher = self._without_head().double()
        plant(teacher, self.updates())
        probes = self.sequences(PROBE_SEQUENCES, self.generator("probes"))
        with torch.no_grad():
            weight = teacher.classifier.weight
            outputs = teacher.bert(probes).pooler_output @ weight.T
            scale = self.problem.logit_scale / outputs.std(0)
            model.classifier.weight.copy_(weight * scale[:, None])
            model.classifier.bias.copy_(-outputs.mean(0) * scale)


def _rotation(width: int, draw: torch.Generator) -> Tensor:
    """A random orthogonal matrix, (width, width) float64; drawn whole, whatever the rank."""
    return torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64)).Q
