r"""Prefix tuning (Li, Liang, ACL 2021, arXiv 2101.00190), as P-tuning v2 uses it for encoders.

    min over P_K, P_V and the head of  L(V; D_train + D_val),
    attention of every layer over the keys [P_K; K] and the values [P_V; V]

P_K and P_V (virtual_tokens, d) are learned for each layer. PEFT's prefix tuning; saved by PEFT.

| choice | paper | here (default) |
|---|---|---|
| reparameterisation | P = MLP(P'), dropped after training; P-tuning v2: depends on the task | none; ``projection`` is the size of the MLP |
| tokens | 10 (table-to-text), 200 (summaries) | 20 |
| lr | 5e-5 (with MLP) | 1e-2, as in PEFT's example of a RoBERTa classifier |
| positions | not said | the text's are counted after the prefix (PEFT, transformers) |

A model must take keys and values of earlier tokens: BERT, RoBERTa, ELECTRA and decoders (GPT-2,
Llama) do; DistilBERT, DeBERTa and ModernBERT do not, which is said in one sentence. Nor are BART and
T5 trained: PEFT gives a prefix to their decoder's own attention only, the paper to all attention.
"""  # noqa: E501

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bilevel.errors import UserError
from bilevel.settings import Count
from problems import common
from problems.common import Job, OneLevelMethod, OptimizerSettings
from problems.prompt import check_plain_texts, check_positions, guard_positions

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["PrefixTuning"]


@dataclass(frozen=True)
class PrefixTuning(OneLevelMethod):
    """Train keys and values that every layer attends to, and the head."""

    name: ClassVar[str] = "prefix"
    takes_targets: ClassVar[bool] = False
    default_lr: ClassVar[float] = 1e-2
    virtual_tokens: Count = 20  # type: ignore[misc]
    """How many positions the prefix takes."""
    projection: Count | None = None
    """Inner size of the MLP that the prefix comes out of; null for no MLP."""
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=1e-2))
    """Of the prefix and the head."""

    def check_answers(self, kind: str) -> None:
        """As prompt tuning's."""
        check_plain_texts(self.name, kind)

    def adapt(self, job: Job, model: PreTrainedModel) -> PeftModel:
        """Put the prefix before every layer's keys and values, head trainable."""
        from peft import PrefixTuningConfig, get_peft_model

        if "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
            raise UserError(
                f"{type(model).__name__} takes no keys and values from outside, which prefix "
                "tuning needs: use method=prompt, or a model of the BERT, RoBERTa or GPT-2 type"
            )
        if model.config.is_encoder_decoder:
            raise UserError(
                f"prefix tuning reaches only the decoder's own attention of {type(model).__name__} "
                "and leaves its encoder alone: use method=prompt, or a model without an encoder"
            )
        smoothing, weights = job.settings.label_smoothing, job.settings.class_weights
        own = "past_key_values" not in inspect.signature(model.forward).parameters
        if own and smoothing:
            raise UserError(
                f"train.label_smoothing={smoothing}: PEFT computes the loss of prefix tuning on "
                f"{type(model).__name__} itself, without smoothing: use 0, or another method"
            )
        if own and weights is not None:
            raise UserError(
                "train.class_weights: PEFT computes the loss of prefix tuning on "
                f"{type(model).__name__} itself, without weights: leave it at null, or take "
                "another method"
            )
        check_positions(job, model, self.virtual_tokens)
        options = common.peft_head(job)
        if self.projection is not None:
            options |= {"prefix_projection": True, "encoder_hidden_size": self.projection}
        config = PrefixTuningConfig(num_virtual_tokens=self.virtual_tokens, **options)
        adapted = get_peft_model(model, config)
        guard_positions(adapted, common.positions(model), self.virtual_tokens)
        return adapted
