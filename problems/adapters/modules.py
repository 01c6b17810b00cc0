r"""Put bottleneck adapters into a transformer, and keep them in files.

    A(x) = W_up phi(W_down x + b_down) + b_up,    W_down (size, d), W_up (d, size)

    houlsby   y + A(y)            y the output of a sublayer's last linear map, before its residual
    pfeiffer  LN(s + A(LN(s)))    s = y + residual, the input of the feed-forward's layer norm

A starts near 0, so both start near the pretrained model. PEFT has no such adapters and a plain
transformers model no place for them, so they have a format of their own: a folder with
``adapter_config.json`` (key ``bottleneck_type``, no ``peft_type``) and ``adapter_model.safetensors``,
read by :func:`load_adapters`.
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from bilevel.checkpoint.sums import check_sums
from bilevel.errors import UserError
from bilevel.lowrank.adapter_files import check_weights
from bilevel.reading import json_object
from bilevel.settings import from_values
from problems.common.layer_names import layer_parts

__all__ = ["BottleneckConfig", "BottleneckModel", "load_adapters"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class BottleneckConfig:
    """What decides the form of an adapted model, as ``adapter_config.json`` has it.

    Attributes:
        bottleneck_type: houlsby or pfeiffer.
        size: units of the bottleneck.
        activation: phi, by transformers' name.
        init_std: of the truncated normal distribution that the matrices start from.
        train_norms: whether the layer norms are trained and saved too.
        head_modules: modules trained and saved in full.
    """

    bottleneck_type: str
    size: int
    activation: str
    init_std: float
    train_norms: bool
    head_modules: list[str]


class Bottleneck(nn.Module):
    """A, from d over ``size`` to d units."""

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.size)
        self.up = nn.Linear(config.size, width)
        self.activation = ACT2FN[config.activation]
        for linear in (self.down, self.up):
            std = config.init_std
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """A(x), (..., d), in the precision of x, whatever the adapter's is (as PEFT's layers)."""
        inner = self.activation(self.down(x.to(self.down.weight.dtype)))
        return self.up(inner).to(x.dtype)


class AdaptedLinear(nn.Module):
    """y + A(y), y = base(x)."""

    def __init__(self, base: nn.Module, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.base = base
        self.adapter = Bottleneck(width, config)

    @property
    def weight(self) -> Tensor:
        """The linear map's, whose precision T5 looks at."""
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., d)."""
        y = self.base(x)
        return y + self.adapter(y)


class AdaptedNorm(nn.Module):
    """LN(s + A(LN(s))), LN = base."""

    def __init__(self, base: nn.Module, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.base = base
        self.adapter = Bottleneck(width, config)

    def forward(self, s: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.base(s + self.adapter(self.base(s)))


# Type -> (the parts of a layer that are adapted, by which module).
SITES: dict[str, tuple[tuple[str, ...], type[AdaptedLinear] | type[AdaptedNorm]]] = {
    "houlsby": (("attention_output", "feed_forward_output"), AdaptedLinear),
    "pfeiffer": (("feed_forward_norm",), AdaptedNorm),
}


class BottleneckModel(nn.Module):
    """A transformers model with bottleneck adapters; only these, the head and norms are trainable.

    Args:
        base: the pretrained model; it is changed in place.
        config: form of the adapters.

    Raises:
        UserError: the model's layers lack the places for the adapters.
    """

    def __init__(self, base: PreTrainedModel, config: BottleneckConfig) -> None:
        super().__init__()
        parts, wrapper = SITES[config.bottleneck_type]
        found = layer_parts(base, parts)
        sites = [name for layer in found for names in layer.values() for name in names]
        norms = [f"{n}." for n, m in base.named_modules() if "norm" in type(m).__name__.lower()]
        heads = [f"{name}." for name in config.head_modules]
        trained = (*heads, *(norms if config.train_norms else ()))
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        for name in sites:
            part = base.get_submodule(name)
            adapted = wrapper(part, base.config.hidden_size, config)
            base.set_submodule(name, adapted.to(next(part.parameters()).device))
        self.base = base
        self.config = base.config
        self.bottleneck = config
        self.head_modules = list(config.head_modules)
        self._trained = [n for n, p in base.named_parameters() if p.requires_grad]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model's."""
        return self.base(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model's, where it writes text."""
        generate: Any = self.base.generate
        return generate(*args, **kwargs)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapters, head and, if they were trained, norms."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parameters = dict(self.base.named_parameters())
        save_file(
            {n: parameters[n].detach().cpu().contiguous() for n in self._trained}, folder / WEIGHTS
        )
        text = json.dumps({**asdict(self.bottleneck), "base": type(self.base).__name__}, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, base: PreTrainedModel, folder: str | Path) -> BottleneckModel:
        """Read what :meth:`save_pretrained` wrote onto a pretrained model, in evaluation mode.

        The adapters are in float32 whatever the model's precision is. Head and norms take the
        model's: on one in half precision they are rounded to it.

        Raises:
            UserError: the folder holds no bottleneck adapters, or some of another model.
        """
        folder = Path(folder)
        path = folder / CONFIG
        check_sums(folder)
        values = json_object(path) if path.is_file() else {}
        if "bottleneck_type" not in values:
            raise UserError(f"{folder} holds no bottleneck adapters (bottleneck_type in {CONFIG})")
        values.pop("base", None)
        check_weights(folder)
        config = from_values(BottleneckConfig, values, str(path))
        if config.bottleneck_type not in SITES or config.activation not in ACT2FN:
            raise UserError(f"{path} is damaged: it has a type or an activation that there is not")
        model = cls(base, config)
        saved = load_file(folder / WEIGHTS)
        parameters = dict(model.base.named_parameters())
        if _shapes(saved, sorted(saved)) != _shapes(parameters, sorted(model._trained)):
            raise UserError(f"the adapters in {folder} are of another model or head than this one")
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
        return model.eval()


def load_adapters(base: PreTrainedModel, folder: str | Path) -> BottleneckModel:
    """``base`` with the bottleneck adapters and the head saved in ``folder``, for inference.

    On a base in half precision what was trained of the head and the norms is rounded to it.

    Raises:
        UserError: the folder holds no bottleneck adapters, or some of another model.
    """
    return BottleneckModel.from_pretrained(base, folder)


def _shapes(tensors: dict[str, Any], names: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensors[name].shape)) for name in names]
