r"""A problem whose right ranks are known: low-rank updates planted in a random transformer.

A small BERT with random weights W0 is the pretrained model. In every target matrix l an update of a
known rank r_l is planted; base and updates together are the teacher, whose answers are the labels:

    W_l = W0_l + s_l sum_{j <= r_l} u_lj v_lj^T,     u_l, v_l orthonormal, drawn at random.

All singular values of an update are equal, so its rank is as well defined as a rank can be. The
student starts from W0 and has the teacher's head, frozen: LoRA with rank r_l in every matrix l can
become the teacher, LoRA with less somewhere cannot.

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

from bilevel.errors import UserError
from experiments.models.target_modules import target_modules

__all__ = ["SPECIAL", "PlantedProblem", "Update", "plant"]

SPECIAL = ("[PAD]", "[UNK]")
PROBE_SEQUENCES = 1024  # the head is standardised on their outputs
SPARE_POSITIONS = 64  # for methods that put virtual tokens before a sequence
POSITION_SIZE = 0.2  # standard deviation of position embeddings; that of words is 1


@dataclass(frozen=True)
class Update:
    """A planted update ``scale * u @ v.T`` of one matrix.

    Attributes:
        u: (out, r) orthonormal columns, float64.
        v: (in, r) orthonormal columns, float64.
        scale: all r singular values.
    """

    u: Tensor
    v: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.u.shape[1]

    def delta(self) -> Tensor:
        """The update itself, (out, in), float64."""
        return self.scale * self.u @ self.v.T


def plant(model: nn.Module, updates: dict[str, Update]) -> None:
    """Add the updates to the model's weights, in place and in its own precision."""
    with torch.no_grad():
        for name, update in updates.items():
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight += update.delta().to(weight.dtype)


@dataclass(frozen=True)
class PlantedProblem:
    """What is planted, and in what.

    Attributes:
        seed: decides weights, ranks and updates.
        layers, hidden, heads: sizes of the transformer; its feed-forward layers are 2 hidden wide.
        vocabulary: words.
        length: words of a sequence; the answer is read off the first one's place.
        classes: of the head.
        targets: where updates are planted: "qv", "all" or module names, as train.target_modules.
        least_rank, most_rank: each rank from the one to the other occurs as often as the others
            (or once more), at places drawn at random.
        ranks: instead, the rank of every target in the model's order.
        strength: singular values of an update, in units of W0's root mean square singular value ...
        query_strength: ... and those of a query's update.
        gain: of the linear maps: entries of W0 have variance gain^2 / inputs ...
        attention_gain: ... of query and key ...
        value_gain: ... and of value and attention output.
        logit_scale: standard deviation of each of the teacher's outputs over the data.
    """

    seed: int = 0
    layers: int = 4
    hidden: int = 32
    heads: int = 4
    vocabulary: int = 32
    length: int = 8
    classes: int = 16
    targets: str | tuple[str, ...] = "qv"
    least_rank: int = 1
    most_rank: int = 6
    ranks: tuple[int, ...] | None = None
    strength: float = 2.0
    query_strength: float = 3.0
    gain: float = 1.0
    attention_gain: float = 1.2
    value_gain: float = 0.7
    logit_scale: float = 6.0

    def __post_init__(self) -> None:
        for key in ("layers", "hidden", "heads"):
            self._check(key, getattr(self, key) >= 1, "1 or more")
        for key in ("vocabulary", "length", "classes"):
            self._check(key, getattr(self, key) >= 2, "2 or more")
        for key in ("gain", "attention_gain", "value_gain", "logit_scale"):
            value = getattr(self, key)
            self._check(key, 0 < value < math.inf, "more than 0, and finite")
        for key in ("strength", "query_strength"):
            value = getattr(self, key)
            self._check(key, 0 < value < math.inf, "more than 0, and finite")
        self._check("seed", self.seed >= 0, "0 or more")
        self._check("heads", self.hidden % self.heads == 0, f"a divisor of hidden={self.hidden}")
        self._check("least_rank", self.least_rank >= 0, "0 or more")
        allowed = self.least_rank <= self.most_rank <= self.hidden
        self._check("most_rank", allowed, f"from least_rank={self.least_rank} to {self.hidden}")
        fit = all(0 <= rank <= self.hidden for rank in self.ranks or ())
        self._check("ranks", fit, f"ranks from 0 to hidden={self.hidden}")
        with torch.device("meta"):  # the names alone
            count = len(target_modules(BertForSequenceClassification(self.config()), self.targets))
        fit = self.ranks is None or len(self.ranks) == count
        what = f"{count} ranks, one for each module of task.planted.targets={self.targets}"
        self._check("ranks", fit, what)

    def _check(self, key: str, good: bool, allowed: str) -> None:
        if not good:
            raise UserError(f"task.planted.{key}={getattr(self, key)}: this must be {allowed}")

    def generator(self, stream: str, *more: int) -> torch.Generator:
        """Random numbers for one purpose, whatever else is drawn."""
        # Mixed, so that no method's torch.manual_seed(small number) draws the same ones.
        mixed = np.random.SeedSequence([self.seed, *stream.encode(), *more])
        return torch.Generator().manual_seed(int(mixed.generate_state(1, np.uint32)[0]))

    def config(self) -> BertConfig:
        """The architecture."""
        config = BertConfig(
            vocab_size=len(SPECIAL) + self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=2 * self.hidden,
            hidden_act="tanh",
            max_position_embeddings=self.length + SPARE_POSITIONS,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
            problem_type="single_label_classification",
        )
        config.num_labels = self.classes
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
        names = target_modules(model, self.targets)
        draw = self.generator("updates")
        updates = {}
        for name, rank in zip(names, self._ranks(len(names)), strict=True):
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            strength = self.query_strength if name.endswith("query") else self.strength
            size = float(weight.detach().double().norm()) / math.sqrt(min(weight.shape))
            u, v = (_rotation(width, draw)[:, :rank] for width in weight.shape)
            updates[name] = Update(u, v, strength * size)
        return updates

    def _ranks(self, count: int) -> list[int]:
        if self.ranks is not None:
            return list(self.ranks)
        choices = range(self.least_rank, self.most_rank + 1)
        order = torch.randperm(count, generator=self.generator("ranks")).tolist()
        return [choices[place % len(choices)] for place in order]

    def sequences(self, count: int, draw: torch.Generator) -> Tensor:
        """Random sequences of words, ids (count, length)."""
        words = (len(SPECIAL), len(SPECIAL) + self.vocabulary)
        return torch.randint(*words, (count, self.length), generator=draw)

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
        return model.eval()

    def _gain(self, name: str) -> float:
        if name.endswith(("query", "key")):
            return self.attention_gain
        if name.endswith(("value", "attention.output.dense")):
            return self.value_gain
        return self.gain

    def _set_head(self, model: BertForSequenceClassification) -> None:
        """Give the model a head whose outputs, on the teacher, have mean 0 and one deviation."""
        teacher = self._without_head().double()
        plant(teacher, self.updates())
        probes = self.sequences(PROBE_SEQUENCES, self.generator("probes"))
        with torch.no_grad():
            weight = teacher.classifier.weight
            outputs = teacher.bert(probes).pooler_output @ weight.T
            scale = self.logit_scale / outputs.std(0)
            model.classifier.weight.copy_(weight * scale[:, None])
            model.classifier.bias.copy_(-outputs.mean(0) * scale)

    def word(self, number: int) -> str:
        """The text of a token id."""
        return [*SPECIAL, *(f"w{i}" for i in range(self.vocabulary))][number]


def _rotation(width: int, draw: torch.Generator) -> Tensor:
    """A random orthogonal matrix, (width, width) float64; drawn whole, whatever the rank."""
    return torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64)).Q
