r"""(IA)^3 (Liu et al., NeurIPS 2022, arXiv 2205.05638): activations rescaled by learned vectors.

    attention     softmax(q (l_k * k)^T / sqrt(d)) (l_v * v)
    feed-forward  (l_ff * phi(x W1)) W2                                        (section 3.3)

All vectors start at one. PEFT's IA3; saved by PEFT.

| choice | paper | here (default) |
|---|---|---|
| modules | keys, values, inside of the feed-forward | the same. PEFT's own list for BERT ("output.dense") would add attention.output.dense |
| lr, optimiser | Adafactor 3e-3, linear, 6 % warm-up (T-Few) | AdamW 3e-3, linear, 6 % warm-up |
| head | none (T0 answers in words) | trained with the vectors |

RoBERTa-base: 12 (2 x 768 + 3072) = 55,296 parameters.
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from problems import common
from problems.common import Job, OneLevelMethod, OptimizerSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["IA3"]


@dataclass(frozen=True)
class IA3(OneLevelMethod):
    """Train a vector of factors for keys, values and feed-forward of each layer."""

    name: ClassVar[str] = "ia3"
    takes_targets: ClassVar[bool] = False
    default_lr: ClassVar[float] = 3e-3
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=3e-3))
    """Of the vectors and the head."""

    def adapt(self, job: Job, model: PreTrainedModel) -> PeftModel:
        """Inject the vectors, head trainable."""
        from peft import IA3Config, get_peft_model

        parts = common.layer_parts(model, ("key", "value", "feed_forward_output"))
        config = IA3Config(
            target_modules=[name for layer in parts for names in layer.values() for name in names],
            feedforward_modules=[name for layer in parts for name in layer["feed_forward_output"]],
            **common.peft_head(job),
        )
        return get_peft_model(model, config)
