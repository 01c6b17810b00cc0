"""The base transformer of `task=planted` as a model, with a tokenizer of its words."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast

from bilevel.errors import UserError
from experiments.models.planted_problem import SPECIAL, PlantedProblem
from experiments.models.spec import LoadedModel, ModelSpec
from experiments.tasks.task import CLASSES, Answers

__all__ = ["PlantedModel", "PlantedTokenizer"]

ALONE = "model=planted is the base of task=planted and goes with that task alone"


class PlantedTokenizer(PreTrainedTokenizerFast):
    """Words to ids; knows which problem its model is the base of."""

    planted: PlantedProblem

    @classmethod
    def of(cls, planted: PlantedProblem) -> PlantedTokenizer:
        """The tokenizer of a problem's base model."""
        words = [planted.word(i) for i in range(len(SPECIAL) + planted.vocabulary)]
        raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        made = cls(
            tokenizer_object=raw,
            pad_token="[PAD]",
            unk_token="[UNK]",
            model_max_length=planted.length,
            model_input_names=["input_ids", "attention_mask"],
        )
        made.planted = planted
        return made


@dataclass(frozen=True)
class PlantedModel(ModelSpec):
    """The base of a planted problem, made and not loaded; `seed` of the run changes nothing in it.

    Attributes:
        planted: the problem; conf/model/planted.yaml takes it from the task.
    """

    planted: PlantedProblem | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained is not None or self.package is not None:
            raise UserError("model=planted is made by the program: it takes no model.pretrained")
        if self.dropout is not None:
            raise UserError("model=planted has no dropout: leave model.dropout=null")

    def source(self) -> str:
        """Nothing is loaded; raises UserError without a problem."""
        self._problem()
        return self.name

    def config(self, answers: Answers) -> BertConfig:
        """The architecture; raises UserError for a task that is not the planted one."""
        config = self._problem().config()
        if answers.kind != CLASSES or answers.size != config.num_labels:
            raise UserError(ALONE)
        return config

    def load(self, answers: Answers, seed: int) -> LoadedModel:
        """Make the base model; it has the teacher's head already, so nothing of it is trained.

        Raises:
            UserError: the task is not the planted one.
        """
        self.config(answers)
        model = self._problem().base()
        wanted = "sdpa" if self.attn_implementation == "auto" else self.attn_implementation
        model.set_attn_implementation(wanted)
        return LoadedModel(
            model, PlantedTokenizer.of(self._problem()), head_modules=[], task_type=None
        )

    def _problem(self) -> PlantedProblem:
        if self.planted is None:
            raise UserError(ALONE)
        return self.planted
