"""Let transformers' models for question answering take labels, and put out logits, as others do.

Their own forward has two arguments for the labels (``start_positions``, ``end_positions``) and two
outputs. Here ``labels`` (n, 2) holds both, and ``logits`` (n, tokens, 2) the scores of each token
as a beginning and as an end, of n windows of text:

    L = -(1/m) sum over the m labels y that are not -100 of log softmax_t(logits)[y]

over the tokens t of a window that are no padding: transformers' own loss, but that theirs has the
padding among the places where an answer may be, so that an example's loss hangs on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from bilevel.labels import NO_LABEL

__all__ = ["SpanOutput", "span_losses", "with_labels"]


@dataclass
class SpanOutput(QuestionAnsweringModelOutput):
    """What transformers' models put out, and ``logits`` (n, tokens, 2)."""

    logits: Tensor | None = None


def with_labels(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, which from now on takes ``labels`` and puts out ``logits``.

    It is saved as what it was: its weights, its configuration and its class's name stay.
    """
    own: Any = type(model)
    model.__class__ = _labelled(own)
    return model


class _Labelled:
    """What is put before a class of transformers; see the module."""

    def forward(
        self,
        *args: Any,
        labels: Tensor | None = None,
        first: Tensor | None = None,
        offsets: Tensor | None = None,
        **kwargs: Any,
    ) -> SpanOutput:
        """As transformers' own; ``first`` and ``offsets`` are a batch's, which nothing here reads.

        A batch without any label has the loss 0, and no gradient.
        """
        kwargs["return_dict"] = True
        found = super().forward(*args, **kwargs)  # type: ignore[misc]
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1)
        loss = None
        if labels is not None:
            scores = logits if logits.element_size() >= 4 else logits.float()
            total = span_losses(scores, labels, kwargs.get("attention_mask")).sum()
            loss = total / (labels != NO_LABEL).sum().clamp(min=1)
        return SpanOutput(
            loss=loss,
            start_logits=found.start_logits,
            end_logits=found.end_logits,
            hidden_states=found.hidden_states,
            attentions=found.attentions,
            logits=logits,
        )


def span_losses(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """The loss of each label, (n, 2): 0 of what is not learned.

    Args:
        logits: (n, tokens, 2).
        labels: (n, 2), places in a window.
        mask: (n, tokens), 0 for padding; None without any.
    """
    if mask is not None:
        logits = logits.masked_fill(mask[..., None] == 0, torch.finfo(logits.dtype).min)
    return functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")


@cache
def _labelled(kind: type[PreTrainedModel]) -> Any:
    if issubclass(kind, _Labelled):
        return kind
    # its name goes into config.json, and its module is where transformers looks for its parts
    return type(kind.__name__, (_Labelled, kind), {"__module__": kind.__module__})
