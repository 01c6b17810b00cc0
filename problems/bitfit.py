r"""BitFit (Ben Zaken, Goldberg, Ravfogel, ACL 2022, arXiv 2106.10199): only the biases are trained.

    min over all biases b and the head of  L(b; D_train + D_val)

| choice | paper and released code | here (default) |
|---|---|---|
| biases | all of them (or those of query and intermediate) | all, of linear maps and layer norms |
| lr | 1e-3 in the released code's example (RTE, BERT-base) | 1e-3 |
| optimiser | AdamW | AdamW, no weight decay, 6 % warm-up (ours) |

On RoBERTa-base that is 102,144 biases, the 0.1 M of LoRA's and AdaLoRA's tables. The model is
saved whole, by transformers; the parameters in it that differ from the pretrained model's are the
trained ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bilevel.errors import UserError
from problems import common
from problems.common import Job, OneLevelMethod, OptimizerSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["BitFit", "bias_names"]


@dataclass(frozen=True)
class BitFit(OneLevelMethod):
    """Train the biases and the head."""

    name: ClassVar[str] = "bitfit"
    takes_targets: ClassVar[bool] = False
    trains_weights: ClassVar[bool] = True
    default_lr: ClassVar[float] = 1e-3
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=1e-3))
    """Of the biases and the head."""

    def adapt(self, job: Job, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze all but the biases and the head."""
        inside = tuple(f"{module}." for module in job.head_modules)
        names = bias_names(model)
        if not any(not name.startswith(inside) for name in names):
            raise UserError(f"{type(model).__name__} has no biases, so BitFit trains nothing of it")
        common.train_only(model, names, job.head_modules)
        return model


def bias_names(model: nn.Module) -> set[str]:
    """Names of the bias vectors (DeBERTa's ``q_bias`` and ``v_bias`` are among them)."""
    return {
        name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1].endswith("bias")
    }
