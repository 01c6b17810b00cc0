"""Take a model that the caller of :mod:`experiments.api` has in memory already."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel.errors import UserError
from experiments.answers import CLASSES, LABELS, NUMBER, TAGS, TEXT, Answers
from experiments.models.base_reference import BaseReference, of_name
from experiments.models.checkpoint_names import parameter_names
from experiments.models.heads import (
    PROBLEM_TYPES,
    check_writes,
    config_options,
    is_seq2seq,
    label_names,
    peft_task_type,
)
from experiments.models.pretrained import LoadedModel
from experiments.models.quantization import keep_trainable
from experiments.models.spec import ModelSpec
from experiments.models.target_modules import head_modules
from experiments.models.tokenizer import prepare

__all__ = ["GivenModel", "answers_of"]

OF_QUESTIONS = ("ForQuestionAnswering", "ForQuestionAnsweringSimple", "ForMultipleChoice")


def answers_of(model: PreTrainedModel) -> Answers:
    """What a model with its head puts out, by its class or those that it is derived from.

    Raises:
        UserError: it has no head, or one of another kind.
    """
    kinds = [cls.__name__ for cls in type(model).__mro__]
    numbers = {int(i): str(name) for i, name in (model.config.id2label or {}).items()}
    names = tuple(numbers.get(i, str(i)) for i in range(int(model.config.num_labels or 0)))
    if any(kind.endswith("ForTokenClassification") for kind in kinds):
        return Answers(TAGS, len(names), names)
    if any(kind.endswith("ForSequenceClassification") for kind in kinds):
        if model.config.problem_type == PROBLEM_TYPES[LABELS]:
            return Answers(LABELS, len(names), names)
        return Answers(NUMBER, 1) if len(names) == 1 else Answers(CLASSES, len(names), names)
    if any(kind.endswith(OF_QUESTIONS) for kind in kinds):
        raise UserError(
            f"{kinds[0]}: models for answers in a text and for multiple choice are fine-tuned by "
            "the program, task=question_answering and task=multiple_choice (docs/tasks.md)"
        )
    if not model.can_generate():
        raise UserError(
            f"{kinds[0]} puts out neither classes, a number, tags nor text: give a model of a "
            "class ...ForSequenceClassification or ...ForTokenClassification, a causal model, or "
            "one with encoder and decoder"
        )
    answers = Answers(TEXT, 0)
    check_writes(answers, model.config, kinds[0])
    return answers


@dataclass(frozen=True)
class GivenModel(ModelSpec):
    """A model in memory; each stage works on a copy.

    Attributes:
        model: with its head.
        tokenizer: pads batches.
        head: modules trained in full; None for those outside the backbone.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    head: Sequence[str] | None = None

    @property
    def quantised(self) -> bool:
        """Whether the layers' weights are packed."""
        return bool(getattr(self.model, "is_quantized", False))

    def source(self) -> str:
        """Nothing to find."""
        return self.name

    def reference(self) -> BaseReference:
        """What it was loaded from, as far as it says."""
        assert self.model is not None
        return of_name(self.model.name_or_path or "")

    def layout(self, answers: Answers) -> None:
        """It is there already."""

    def load(self, answers: Answers, seed: int) -> LoadedModel:
        """A copy of the model, which has its head; its classes have the names in ``answers``."""
        return self.copy(answers.names)

    def copy(self, names: Sequence[str] | None = None) -> LoadedModel:
        """A copy of the model in fp32, or quantised as it is, and of its tokenizer.

        Args:
            names: of its classes or tags; None keeps those of its configuration.
        """
        assert self.model is not None
        assert self.tokenizer is not None
        answers = answers_of(self.model)
        if names is not None:
            answers = replace(answers, names=tuple(names))
        fresh = copy.deepcopy(self.model).eval()
        tokenizer = copy.deepcopy(self.tokenizer)
        prepare(tokenizer, fresh.config)
        if self.quantised:  # packed weights have no other precision
            keep_trainable(fresh)
        else:
            fresh = fresh.float()
        # A decoder that classifies reads the last token that is no padding.
        fresh.config.pad_token_id = tokenizer.pad_token_id
        if names is not None:
            for key, value in label_names(answers).items():
                setattr(fresh.config, key, value)
        fresh.config.problem_type = config_options(answers).get("problem_type")
        head = self._head(fresh, answers)
        task_type = peft_task_type(fresh, answers, head)
        seq2seq = is_seq2seq(answers, fresh.config)
        # Its checkpoint may have had another head: that cannot be told here.
        return LoadedModel(fresh, tokenizer, head, task_type, seq2seq, head_replaced=bool(head))

    def _head(self, model: PreTrainedModel, answers: Answers) -> list[str]:
        if self.head is not None:
            return list(self.head)
        return [] if answers.kind == TEXT else head_modules(model, _fresh_pooler(model))


def _fresh_pooler(model: PreTrainedModel) -> list[str]:
    """Parameters of a pooler that the model's checkpoint has no weights for.

    They were drawn when the caller loaded it, and whoever loads the checkpoint again draws others:
    what is trained beside them must be saved with them. Where the checkpoint cannot be seen they
    are taken for such; a model that names none has all of its weights from the caller.
    """
    poolers = [name for name, _ in model.named_parameters() if "pooler" in name.split(".")]
    if not poolers or not model.name_or_path:
        return []
    names = parameter_names(model.name_or_path)
    return [] if any("pooler" in name.split(".") for name in names or ()) else poolers
