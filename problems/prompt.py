r"""Prompt tuning (Lester, Al-Rfou, Constant, EMNLP 2021, arXiv 2104.08691).

    min over P and the head of  L([P; E(x)]; D_train + D_val)

P (virtual_tokens, d) stands before the embedded input E(x). PEFT's prompt tuning; saved by PEFT.

| choice | paper | here (default) |
|---|---|---|
| model | T5, which answers in words | an encoder with a head, trained with P |
| what the head reads | - | position 0 (BERT, RoBERTa): with PEFT that is the first virtual token |
| tokens | 1 to 150, 20 enough for large models | 20 |
| start of P | sampled vocabulary or class names | ``init=vocabulary``; or ``random``: N(0, 1) |
| lr, optimiser | Adafactor 0.3, constant | AdamW 5e-3, linear (ours; there is a head) |

Virtual tokens take positions: they and the longest text together must fit the model's. The text
moves to later positions, in prefix tuning too. A model pretrained on short texts only does not know
these: on ``model=demo`` LoRA's accuracy falls from 0.88 to 0.56 if positions are moved by 4, to
0.48 by 20, so both methods are near chance there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bilevel.errors import UserError
from bilevel.settings import Count
from problems import common
from problems.common import Job, OneLevelMethod, OptimizerSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

__all__ = [
    "PromptTuning",
    "check_lengths",
    "check_plain_texts",
    "check_positions",
    "guard_positions",
]

# The smallest task.max_length that can be given.
LEAST_TEXT = 8

# PEFT's names of the starts.
STARTS = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}


@dataclass(frozen=True)
class PromptTuning(OneLevelMethod):
    """Train embeddings of virtual tokens before the text, and the head."""

    name: ClassVar[str] = "prompt"
    takes_targets: ClassVar[bool] = False
    default_lr: ClassVar[float] = 5e-3
    virtual_tokens: Count = 20  # type: ignore[misc]
    """How many."""
    init: Literal["vocabulary", "random"] = "vocabulary"
    """What they start from: embeddings of random tokens of the vocabulary, or N(0, 1)."""
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=5e-3))
    """Of the embeddings and the head."""

    def check_answers(self, kind: str) -> None:
        """PEFT's virtual tokens have no place among those of a text that answers are found in."""
        check_plain_texts(self.name, kind)

    def adapt(self, job: Job, model: PreTrainedModel) -> PeftModel:
        """Put the virtual tokens before the input, head trainable."""
        from peft import PromptTuningConfig, get_peft_model

        if job.task_type == "TOKEN_CLS":
            # PEFT tags the virtual tokens too, and then has more tags than labels.
            raise UserError(
                "prompt tuning cannot tag words: PEFT takes the virtual tokens for some of them; "
                "use method=prefix or another method"
            )
        if "score" in job.head_modules:
            # Decoders: without token ids, transformers takes the last position, maybe padding.
            raise UserError(
                f"prompt tuning hides from {type(model).__name__} where a text ends, which its "
                "head needs to know: use another method, or a model of the BERT type"
            )
        check_positions(job, model, self.virtual_tokens)
        embeddings: Any = model.get_input_embeddings()
        config = PromptTuningConfig(
            num_virtual_tokens=self.virtual_tokens,
            prompt_tuning_init=STARTS[self.init],
            token_dim=embeddings.embedding_dim,
            num_layers=model.config.num_hidden_layers,
            num_attention_heads=model.config.num_attention_heads,
            num_transformer_submodules=1,  # with a decoder too, PEFT puts them before the encoder's
            **common.peft_head(job),
        )
        adapted = get_peft_model(model, config)
        guard_positions(adapted, common.positions(model), self.virtual_tokens)
        return adapted


def check_plain_texts(method: str, kind: str) -> None:
    """Refuse virtual tokens where PEFT cannot put them.

    Args:
        method: the method's name.
        kind: of answers, an ``AnswerKind``.

    Raises:
        UserError: answers are found in a text, or chosen among several.
    """
    if kind in ("spans", "choices"):
        what = "found in a text" if kind == "spans" else "chosen among several"
        raise UserError(
            f"method={method} puts virtual tokens before a text, which PEFT does not do where "
            f"answers are {what}: take method=lora or another method"
        )


def check_positions(job: Job, model: PreTrainedModel, virtual_tokens: int) -> None:
    """Raise UserError if the longest training example leaves no room for the virtual tokens."""
    # of a stream they are not known beforehand
    check_lengths(job.data.lengths, virtual_tokens, common.positions(model))


def check_lengths(lengths: Iterable[int], virtual_tokens: int, limit: int | None) -> None:
    """Raise UserError if a text leaves no room for the virtual tokens.

    Args:
        lengths: of the texts, in tokens.
        virtual_tokens: that stand before each; 0 of a method without any.
        limit: the model's positions; None without a limit.
    """
    longest = max(lengths, default=0)
    if virtual_tokens and limit is not None and longest + virtual_tokens > limit:
        raise _too_long(longest, virtual_tokens, limit)


def guard_positions(model: nn.Module, limit: int | None, virtual_tokens: int) -> None:
    """The same for every batch: a stream's lengths are not known beforehand."""

    def check(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        length = kwargs["input_ids"].shape[1]
        if limit is not None and length + virtual_tokens > limit:
            raise _too_long(length, virtual_tokens, limit)

    model.register_forward_pre_hook(check, with_kwargs=True)


def _too_long(length: int, virtual_tokens: int, limit: int) -> UserError:
    for_text, for_tokens = limit - virtual_tokens, limit - length
    ways = [f"task.max_length={for_text}"] if for_text >= LEAST_TEXT else []
    ways += [f"at most {for_tokens} virtual tokens" if for_tokens > 0 else "fewer virtual tokens"]
    return UserError(
        f"a text of {length} tokens and method.virtual_tokens={virtual_tokens} exceed the model's "
        f"{limit} positions: use {' or '.join(ways)}"
    )
