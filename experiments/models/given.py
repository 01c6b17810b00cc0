"""Check the model and the tokenizer that the caller of :mod:`experiments.api` hands over."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel.errors import UserError, listed, nearest
from experiments.models.vocabulary import check_tokenizer, size

__all__ = ["check_given", "check_head", "kind", "token_types"]

CLASS = "AutoModelForSequenceClassification.from_pretrained(...)"


def check_given(model: Any, tokenizer: Any) -> None:
    """Refuse what is no model of transformers without an adapter, or no tokenizer that suits it.

    Raises:
        UserError: says what was given, and what is needed.
    """
    if isinstance(model, PeftModel) or (
        isinstance(model, PreTrainedModel)
        and any(isinstance(module, BaseTunerLayer) for module in model.modules())
    ):
        raise UserError(
            "model= has an adapter already: give the model without it, model.unload(), or with "
            "it merged in, model.merge_and_unload()"
        )
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"model= must be a model of transformers, {CLASS}, and not {kind(model)}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            "tokenizer= must be a tokenizer of transformers, AutoTokenizer.from_pretrained(...), "
            f"and not {kind(tokenizer)}"
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise UserError(
            "tokenizer= has no token to pad with: set tokenizer.pad_token to one of its tokens"
        )
    check_tokenizer(tokenizer, size(model), type(model).__name__)


def check_head(model: PreTrainedModel, head: Any) -> None:
    """Refuse names in ``head`` that are no modules.

    Raises:
        UserError: names the modules outside the backbone.
    """
    if head is None:
        return
    if isinstance(head, str) or not isinstance(head, Sequence):
        raise UserError(f"head= must be a list of modules' names or None, and not {head!r}")
    modules = [name for name, _ in model.named_modules() if name]
    known = {name.rsplit(".", 1)[-1] for name in modules} | set(modules)
    for name in head:
        if name not in known:
            outside = [n for n, _ in model.named_children() if n != model.base_model_prefix]
            raise UserError(
                f"head= names {name!r}, and the model has no such module: outside the backbone it "
                f"has {listed(outside)}{nearest(str(name), outside)}"
            )


def token_types(model: PreTrainedModel) -> int | None:
    """How many token types a model knows; 0 if it reads none, None if that cannot be told."""
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return 0
    return getattr(model.config, "type_vocab_size", None) or None


def kind(value: Any) -> str:
    """What was given, in a message: a class is no object."""
    if value is None:
        return "None"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, str | int | float | bool):
        return repr(value)
    return f"an object of the type {type(value).__name__}"
