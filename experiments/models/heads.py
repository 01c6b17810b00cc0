"""Choose the class of transformers that puts out what a task wants, and PEFT's name for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
)

from bilevel.errors import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, TEXT, Answers
from experiments.models.target_modules import head_modules

__all__ = [
    "PROBLEM_TYPES",
    "auto_class",
    "check_finite",
    "check_shapes",
    "check_writes",
    "config_options",
    "heads",
    "is_seq2seq",
    "label_names",
    "peft_task_type",
]

# transformers' names for the kinds that a head has.
PROBLEM_TYPES = {
    CLASSES: "single_label_classification",
    LABELS: "multi_label_classification",
    NUMBER: "regression",
}

# Kinds of answers that transformers has a head for with some architectures alone.
HEADS = {
    SPANS: ("answers in a text", MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
    CHOICES: ("multiple choice", MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES),
}


def config_options(answers: Answers) -> dict[str, Any]:
    """What a model's configuration has to say of its head; nothing for text.

    The names of the classes are always said: a pretrained configuration may have some of its own,
    and a saved model answers with those of its configuration.
    """
    if answers.kind in (TEXT, CHOICES):  # a head for choices scores one at a time
        return {}
    if answers.kind == SPANS:
        return {"num_labels": answers.size}
    options: dict[str, Any] = {"num_labels": answers.size, **label_names(answers)}
    if answers.kind in PROBLEM_TYPES:
        options["problem_type"] = PROBLEM_TYPES[answers.kind]
    return options


def label_names(answers: Answers) -> dict[str, dict[Any, Any]]:
    """``id2label`` and ``label2id``, as transformers' configurations have them.

    A number, and classes that nobody has named, have transformers' own names, LABEL_0 and so on.
    """
    names = answers.names or [f"LABEL_{i}" for i in range(answers.size)]
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


def auto_class(answers: Answers, config: PretrainedConfig) -> Any:
    """The auto class that loads a model for these answers."""
    if answers.kind == TAGS:
        return AutoModelForTokenClassification
    if answers.kind == SPANS:
        return AutoModelForQuestionAnswering
    if answers.kind == CHOICES:
        return AutoModelForMultipleChoice
    if answers.kind != TEXT:
        return AutoModelForSequenceClassification
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def check_writes(answers: Answers, config: PretrainedConfig, name: str) -> None:
    """Refuse an architecture that cannot put out what is wanted.

    Raises:
        UserError: text is wanted from an encoder, which cannot write any, or transformers has no
            head of this kind for it.
    """
    if answers.kind in HEADS:
        _check_head(answers, config, name)
    if answers.kind != TEXT or config.is_encoder_decoder:
        return
    # transformers has causal classes for BERT and its kin too; they were not pretrained to write.
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise UserError(
            f"model={name} is an encoder ({config.model_type}) and writes no text, which this task "
            "needs: take a causal model (GPT-2, Llama, Qwen, Mistral, model=demo_causal) or one "
            "with encoder and decoder (BART, T5)"
        )


def _check_head(answers: Answers, config: PretrainedConfig, name: str) -> None:
    what, served = HEADS[answers.kind]
    # T5's model for spans has its layers where others have their head
    if config.model_type not in served or config.is_encoder_decoder:
        raise UserError(
            f"model={name} ({config.model_type}) has no head for {what}, which this task needs: "
            "take an encoder (BERT, RoBERTa, DeBERTa v3, ELECTRA, ModernBERT)"
        )


def is_seq2seq(answers: Answers, config: PretrainedConfig) -> bool:
    """Whether the model reads labels apart from its input."""
    return answers.kind == TEXT and bool(config.is_encoder_decoder)


def heads(model: PreTrainedModel, answers: Answers, fresh: Sequence[str]) -> list[str]:
    """Modules to train in full: those of a new head; none where the vocabulary is the output.

    Raises:
        UserError: the checkpoint lacks weights that are no new head's.
    """
    if answers.kind != TEXT:
        return head_modules(model, fresh)
    parameters = {name for name, _ in model.named_parameters()}  # not BART's bias of zeros
    missing = [name for name in fresh if name in parameters]
    if missing:
        raise UserError(
            f"the checkpoint {model.name_or_path} has no weights for {len(missing)} parameters of "
            f"{type(model).__name__}, e.g. {missing[0]}: it is not of this architecture, or was "
            "not pretrained to write text"
        )
    return []


def check_shapes(model: PreTrainedModel, mismatched: Sequence[tuple[str, Any, Any]]) -> None:
    """Refuse weights of other shapes than the configuration says, but for a head to be replaced.

    Args:
        model: as it was loaded.
        mismatched: name, shape in the files and shape in the model of each such weight.

    Raises:
        UserError: one is inside the backbone.
    """
    backbone = f"{model.base_model_prefix}."
    for name, there, wanted in mismatched:
        if name.startswith(backbone):
            raise UserError(
                f"the weights of {model.name_or_path} do not fit its config.json: {name} is of "
                f"shape {list(there)} in the files, and {list(wanted)} is configured"
            )


def check_finite(model: PreTrainedModel) -> None:
    """Raise UserError if a weight is nan or infinite: training would blame the learning rate."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise UserError(
                f"the weights of {model.name_or_path} are damaged: {name} has values that are nan "
                "or infinite"
            )


def peft_task_type(model: PreTrainedModel, answers: Answers, head: Sequence[str]) -> str | None:
    """PEFT's task type; None where it would look for a head to train that there is not."""
    if answers.kind == TEXT:
        return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if not head:
        return None
    # PEFT has no type for multiple choice, and its model for question answering (0.21) passes no
    # token_type_ids on, by which BERT tells a question from its text
    types = {TAGS: "TOKEN_CLS", SPANS: None, CHOICES: None}
    return types.get(answers.kind, "SEQ_CLS")
