"""Load a pretrained model with a new head, and its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bilevel.errors import UserError
from bilevel.lowrank.fused import fused_projections
from experiments.answers import SPANS, Answers
from experiments.models import quantization
from experiments.models.heads import (
    auto_class,
    check_finite,
    check_shapes,
    check_writes,
    config_options,
    heads,
    is_seq2seq,
    peft_task_type,
)
from experiments.models.loading import NoScaledDotProductError, fetch, quietly
from experiments.models.memory import heads_in_float32
from experiments.models.spans import with_labels
from experiments.models.target_modules import outside_layers
from experiments.models.tokenizer import prepare
from experiments.models.vocabulary import check_rows, check_tokenizer, size
from experiments.tasks.kinds.remarks import numbered

__all__ = ["LoadedModel", "config", "load"]

log = logging.getLogger(__name__)

# Every dropout probability that a configuration may have, by architecture.
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "pooler_dropout",
    "cls_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)


class Data(Protocol):
    """Of a task: ``experiments.tasks.TaskData``."""

    @property
    def name(self) -> str:
        """The task's name."""

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Columns for the model."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its head, its tokenizer, and the modules to train and save in full.

    Attributes:
        task_type: PEFT's name for what it puts out, or None.
        seq2seq: it reads labels apart from its input.
        head_replaced: the checkpoint has a head for other answers.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head_modules: list[str]
    task_type: str | None
    seq2seq: bool = False
    head_replaced: bool = False

    def tokenise(self, task: Data, examples: Sequence[Any]) -> list[dict[str, Any]]:
        """The task's examples as this model reads them.

        Raises:
            UserError: as ``TaskData.tokenise``, or a token has no embedding.
        """
        rows = task.tokenise(self.tokenizer, examples, self.seq2seq)
        known = size(self.model)
        check_rows(rows, known, lambda number: f"example {numbered(number)} of task {task.name}")
        return rows


def config(
    source: str,
    revision: str | None,
    answers: Answers,
    name: str,
    dropout: float | None,
    *,
    trusted: bool = False,
) -> PretrainedConfig:
    """Load a model's configuration alone.

    Args:
        source: a folder or a hub id.
        revision: the hub's branch, tag or commit.
        answers: what the model is to put out.
        name: of the model, for messages.
        dropout: replaces every dropout probability; None keeps the model's own.
        trusted: whether code that comes with the model may be run.

    Raises:
        UserError: the model is not there, or it cannot put out what is wanted.
    """
    found = fetch(AutoConfig, source, revision, trusted=trusted, **config_options(answers))
    check_writes(answers, found, name)
    if dropout is not None:
        for key in DROPOUTS:
            if hasattr(found, key):
                setattr(found, key, dropout)
    return found


def load(
    source: str,
    revision: str | None,
    config: PretrainedConfig,
    answers: Answers,
    seed: int,
    *,
    attention: str,
    dtype: str,
    quantized: str | None,
    trusted: bool = False,
) -> LoadedModel:
    """Load a model with a new head, and its tokenizer.

    Args:
        source: a folder or a hub id.
        revision: the hub's branch, tag or commit.
        config: the model's, see :func:`config`.
        answers: what the model is to put out.
        seed: decides the new head's weights.
        attention: "sdpa", "eager" or "auto".
        dtype: of frozen weights.
        quantized: "4bit", "8bit" or None.
        trusted: whether code that comes with the model may be run.

    Raises:
        UserError: as `ModelSpec.load`.
    """
    tokenizer = _tokenizer(source, revision, config, trusted)
    tokens = getattr(config.get_text_config(), "vocab_size", None)
    check_tokenizer(tokenizer, tokens, source)  # before the weights are read
    # Quantised weights, and a new head with them, are made on the GPU; all others on the CPU, and
    # then a GPU's generator is none of ours: torch.manual_seed would seed every one.
    on_gpu = quantized is not None and torch.cuda.is_available()
    gpus = [torch.cuda.current_device()] if on_gpu else []
    with torch.random.fork_rng(devices=gpus), quietly():
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)
        kind = auto_class(answers, config)
        model, info = load_weights(
            source, revision, config, kind, attention, dtype, quantized, trusted
        )
    check_shapes(model, info["mismatched_keys"])
    check_finite(model)
    changed = [key for key, *_ in info["mismatched_keys"]]
    head = heads(model, answers, fresh=[*info["missing_keys"], *changed])
    poolers = [name for name in head if "." in name]
    if poolers:
        log.debug("%s has no weights for %s: it is trained with the head", source, poolers)
    # A decoder that classifies reads the last token that is no padding.
    model.config.pad_token_id = tokenizer.pad_token_id
    if quantized is not None:
        quantization.keep_trainable(model)
    heads_in_float32(model, head)
    if answers.kind == SPANS:
        model = with_labels(model)
    model.eval()
    task_type = peft_task_type(model, answers, head)
    seq2seq = is_seq2seq(answers, config)
    return LoadedModel(model, tokenizer, head, task_type, seq2seq, head_replaced=bool(changed))


def layout(kind: Any, config: PretrainedConfig, trusted: bool) -> PreTrainedModel:
    """The model without numbers, on torch's meta device: names and shapes, nothing is read.

    Args:
        kind: its auto class.
        config: the model's, see :func:`config`.
        trusted: whether code that comes with the model may be run.
    """
    with torch.device("meta"):
        found: PreTrainedModel = kind.from_config(config, trust_remote_code=trusted)
    return found


def load_weights(
    source: str,
    revision: str | None,
    config: PretrainedConfig,
    kind: Any,
    attention: str,
    dtype: str,
    quantized: str | None,
    trusted: bool = False,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model itself as the auto class ``kind``, and what transformers says of its loading."""
    options: dict[str, Any] = {
        "config": config,
        "dtype": getattr(torch, dtype),
        "output_loading_info": True,
        # A head fine-tuned for another number of labels is replaced.
        "ignore_mismatched_sizes": True,
        "trusted": trusted,
    }
    if quantized is not None:
        skeleton = layout(kind, config, trusted)
        options["quantization_config"] = quantization.bitsandbytes_config(
            quantized, keep=[*outside_layers(skeleton), *fused_projections(skeleton)]
        )
    wanted = "sdpa" if attention == "auto" else attention
    try:
        return fetch(kind, source, revision, attn_implementation=wanted, **options)
    except NoScaledDotProductError as error:
        if attention != "auto":
            raise UserError(
                f"{source} has no sdpa attention: use model.attn_implementation=eager"
            ) from error
    return fetch(kind, source, revision, attn_implementation="eager", **options)


def _tokenizer(
    source: str, revision: str | None, config: PretrainedConfig, trusted: bool
) -> PreTrainedTokenizerBase:
    tokenizer = fetch(AutoTokenizer, source, revision, trusted=trusted)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # Of a folder without a tokenizer's files transformers makes one that knows no word.
        raise UserError(
            f"the model {source} has no tokenizer, or one without a vocabulary: put "
            "the tokenizer's files (tokenizer.json, ...) beside the model's"
        )
    prepare(tokenizer, config)
    return tokenizer
