r"""DoRA (Liu et al., ICML 2024, arXiv 2402.09353): magnitude and direction of each matrix apart.

    W = m (W0 + s B A) / ||W0 + s B A||,    s = alpha / r,    norms over each output's weights

m (out) starts at the norms of W0, so that W starts at W0. PEFT's ``use_dora``; saved by PEFT.

| choice | paper | here (default) |
|---|---|---|
| gradient through the norm | none, it is a constant (section 4.3) | as the paper; PEFT does that |
| rank, alpha, lr, weight decay | of LoRA | LoRA's of ``method=lora``, for a fair comparison |
| weight decay of m | not said | none: it is towards 0, and m is the pretrained weights' own size |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from problems import bidora, common
from problems.common import Job, LowRankMethod, OneLevelMethod, OptimizerSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["DoRA"]


@dataclass(frozen=True)
class DoRA(LowRankMethod, OneLevelMethod):
    """LoRA on the direction of each matrix, and its magnitude beside it."""

    name: ClassVar[str] = "dora"
    reads_weights: ClassVar[bool] = True
    two_rates: ClassVar[bool] = True
    refuses: ClassVar[dict[str, str]] = {"start": "whose magnitudes start at those of the weights"}
    targets: str | None = None  # type: ignore[misc]
    """Where adapters go (qv, all) unless train.target_modules says otherwise; null for qv."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(weight_decay=0.1)
    )
    """Of all that is trained, the weight decay but for the magnitudes; lr null for train.lr, or
    5e-4."""

    def adapt(self, job: Job, model: PreTrainedModel) -> PeftModel:
        """Inject DoRA, head trainable."""
        return common.add_lora(
            job,
            model,
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            use_dora=True,
            use_rslora=self.peft.use_rslora,
        )

    def undecayed(self, model: Any) -> list[nn.Parameter]:
        """The magnitudes, which would fall towards 0 and take the pretrained weights with them."""
        return list(bidora.magnitudes(model).parameters())

    def ranks(self, model: Any) -> dict[str, int]:
        """The same for every module."""
        return dict.fromkeys(bidora.dora_layers(model), self.rank)
