r"""DoRA (Liu et al., ICML 2024, arXiv 2402.09353): magnitude and direction of each matrix apart.

    W = m (W0 + s B A) / ||W0 + s B A||,    s = alpha / r,    norms over each output's weights

m (out) starts at the norms of W0, so that W starts at W0. PEFT's ``use_dora``; saved by PEFT.

| choice | paper | here (default) |
|---|---|---|
| gradient through the norm | none, it is a constant (section 4.3) | as the paper; PEFT does that |
| rank, alpha, lr, weight decay | of LoRA | LoRA's of ``method=lora``, for a fair comparison |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftModel
from transformers import PreTrainedModel

from problems.bidora import dora_layers
from problems.common.method import Job, add_lora, check_lora
from problems.common.one_level import OneLevelMethod
from problems.common.optimizer_settings import OptimizerSettings

__all__ = ["DoRA"]


@dataclass(frozen=True)
class DoRA(OneLevelMethod):
    """LoRA on the direction of each matrix, and its magnitude beside it.

    Args:
        rank, lora_alpha, lora_dropout: of the direction's B A, as in LoRA.
        targets: where adapters go ("qv", "all") unless train.target_modules says otherwise.
        optimizer: of all that is trained; lr None for train.lr, or 5e-4.
    """

    name: ClassVar[str] = "dora"
    reads_weights: ClassVar[bool] = True
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    targets: str | None = None  # type: ignore[misc]
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        check_lora(self.rank, self.lora_dropout)

    def adapt(self, job: Job, model: PreTrainedModel) -> PeftModel:
        """Inject DoRA, head trainable."""
        return add_lora(
            job,
            model,
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            use_dora=True,
        )

    def ranks(self, model: Any) -> dict[str, int]:
        """The same for every module."""
        return dict.fromkeys(dora_layers(model), self.rank)
