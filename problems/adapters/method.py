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
| dropout | before the adapter | before the adapter | houlsby: after it, pfeiffer: before it |

With ``train_norms=false`` AdaLoRA's table counts come out (DeBERTa-v3-base: houlsby of size 8 has
313,536 parameters, its 0.31 M; pfeiffer of size 16 has 304,320, its 0.30 M). PEFT has neither and
cannot load them; ``problems.adapters.method.load_adapters(model, folder)`` does, see
:mod:`problems.adapters.modules` for equations and format.
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import PreTrainedModel

from bilevel.errors import UserError
from problems.adapters.modules import SITES, BottleneckConfig, BottleneckModel, load_adapters
from problems.common.method import Job
from problems.common.one_level import OneLevelMethod
from problems.common.optimizer_settings import OptimizerSettings, check_choice, check_range

__all__ = ["BottleneckAdapters", "BottleneckModel", "load_adapters"]

ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


@dataclass(frozen=True)
class BottleneckAdapters(OneLevelMethod):
    """Train bottleneck adapters and the head.

    Args:
        placement: houlsby or pfeiffer.
        size: units of the bottleneck; None for ``reduction``.
        reduction: instead, model width / units (rounded down, at least one unit).
        activation: gelu, relu, silu or tanh.
        init_std: of the truncated normal distribution that the adapters' matrices start from.
        train_norms: train the layer norms too.
        optimizer: of all that is trained.
    """

    name: ClassVar[str] = "adapters"
    takes_targets: ClassVar[bool] = False
    default_lr: ClassVar[float] = 3e-4
    placement: str = "houlsby"
    size: int | None = 64
    reduction: float | None = None
    activation: str = "gelu"
    init_std: float = 0.01
    train_norms: bool = True
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=3e-4, weight_decay=0.01, warmup_ratio=0.1)
    )

    def __post_init__(self) -> None:
        check_choice("placement", self.placement, list(SITES))
        check_choice("activation", self.activation, ACTIVATIONS)
        if (self.size is None) == (self.reduction is None):
            raise UserError(
                f"method.size={self.size} and method.reduction={self.reduction}: exactly one of "
                "them gives the size of the bottleneck, the other must be null"
            )
        check_range("size", self.size, self.size is None or self.size >= 1, "1 or more")
        ratio = self.reduction
        check_range("reduction", ratio, ratio is None or ratio >= 1, "1 or more")
        check_range("init_std", self.init_std, self.init_std > 0, "more than 0")

    def adapt(self, job: Job, model: PreTrainedModel) -> BottleneckModel:
        """Insert the adapters."""
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
