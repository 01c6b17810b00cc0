r"""Bottleneck adapters: Houlsby et al. (ICML 2019, arXiv 1902.00751) and Pfeiffer et al. (EACL 2021,
arXiv 2005.00247).

    min over the adapters A, the head (and the layer norms) of  L(A; D_train + D_val)

| choice | Houlsby | Pfeiffer (AdapterHub's settings) | here (default) |
|---|---|---|---|
| place | after both sublayers, before the residual | after the feed-forward's add and norm | ``placement`` |
| size | 8 to 256, 64 if fixed | d / 16 | houlsby: ``size=64``; pfeiffer: ``reduction=16`` |
| phi | GELU (released code) | ReLU | as each |
| start | truncated normal, 0.01 | normal, 0.02 | truncated normal, as each |
| layer norms | trained | frozen | as each (``train_norms``) |
| lr | 3e-5, 3e-4 or 3e-3 by task | 1e-4 | 3e-4; 1e-4 |
| schedule | linear, 10 % warm-up | linear | linear, 10 % warm-up |
| weight decay | 0.01, not of layer norms and biases (released code) | not said | 0.01, as Houlsby's |
| dropout | before the adapter | before the adapter | houlsby: after it, pfeiffer: before it |

With ``train_norms=false`` AdaLoRA's table counts come out (DeBERTa-v3-base: houlsby of size 8 has
313,536 parameters, its 0.31 M; pfeiffer of size 16 has 304,320, its 0.30 M). PEFT has neither and
cannot load them; ``problems.adapters.load_adapters(model, folder)`` does, see
:mod:`problems.adapters.modules` for equations and format.
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge

from bilevel.errors import UserError
from bilevel.settings import Count, Positive
from problems.common import Job, OneLevelMethod, OptimizerSettings, trainable

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from problems.adapters.modules import BottleneckModel

__all__ = ["BottleneckAdapters"]


@dataclass(frozen=True)
class BottleneckAdapters(OneLevelMethod):
    """Train bottleneck adapters and the head."""

    name: ClassVar[str] = "adapters"
    takes_targets: ClassVar[bool] = False
    default_lr: ClassVar[float] = 3e-4
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """After both sublayers before the residual, or after the feed-forward's add and norm."""
    size: Count | None = 64
    """Units of the bottleneck; null for reduction."""
    reduction: Annotated[float, Ge(1)] | None = None
    """Instead of size, model width / units (rounded down, at least one unit)."""
    activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    """phi, between the two matrices."""
    init_std: Positive = 0.01
    """Of the truncated normal distribution that the adapters' matrices start from."""
    train_norms: bool = True
    """Train the layer norms too."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=3e-4, weight_decay=0.01, warmup_ratio=0.1)
    )
    """Of all that is trained, the weight decay of its matrices alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.size is None) == (self.reduction is None):
            raise UserError(
                f"method.size={self.size} and method.reduction={self.reduction}: exactly one of "
                "them gives the size of the bottleneck, the other must be null"
            )

    def undecayed(self, model: BottleneckModel) -> list[nn.Parameter]:
        """Layer norms and biases: all that is trained and no matrix."""
        return [p for p in trainable(model) if p.ndim == 1]

    def adapt(self, job: Job, model: PreTrainedModel) -> BottleneckModel:
        """Insert the adapters."""
        from problems.adapters.modules import BottleneckConfig, BottleneckModel

        size = self.size
        if size is None:
            assert self.reduction is not None
            size = max(1, int(model.config.hidden_size / self.reduction))
        config = BottleneckConfig(
            bottleneck_type=self.placement,
            size=size,
            activation=self.activation,
            init_std=self.init_std,
            train_norms=self.train_norms,
            head_modules=list(job.head_modules),
        )
        return BottleneckModel(model, config)
