r"""Put a linear map on a frozen model's embeddings, and keep it in files.

    logits = W e(text) + b

| ``pooling`` | e | where |
|---|---|---|
| ``mean`` | the mean of the last layer's states over the tokens; of encoder-decoder models the encoder's | texts and pairs |
| ``head`` | what the last linear map of the model's own head is given | texts and pairs; tags, of each token |

``mean`` has no place in a transformers model; ``head`` has, the head's last linear map:
:meth:`ProbedModel.merged`. Either way what is saved is the map alone (and what else of the head is
new), in a format of its own: a folder with ``adapter_config.json`` (key ``probe_pooling``, no
``peft_type``) and ``adapter_model.safetensors``, read by :func:`load_probe`.
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bilevel import precision
from bilevel.checkpoint.sums import check_sums
from bilevel.errors import UserError
from bilevel.lowrank.adapter_files import check_weights
from bilevel.reading import json_object

__all__ = ["POOLING", "Embedder", "Pooling", "ProbedModel", "load_probe"]

Pooling = Literal["mean", "head"]

POOLING = "probe_pooling"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAP, HEAD = "probe.", "head."  # prefixes of the names in WEIGHTS


class Embedder(nn.Module):
    """A frozen model that puts out what a linear map on it is given.

    Args:
        base: the pretrained model with its head; it is changed in place.
        pooling: what is put out.

    Attributes:
        last: name of the head's last linear map.
        removed: that linear map itself, which ``pooling=head`` takes out.

    Raises:
        UserError: the model has no such place.
    """

    def __init__(self, base: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.config = base.config
        self.pooling = pooling
        self.last, self.removed = _last_linear(base)
        if pooling == "head":
            base.set_submodule(self.last, nn.Identity())
        elif base.base_model is base:
            raise UserError(
                f"method.pooling=mean: {type(base).__name__} has no backbone apart from its head: "
                "take method.pooling=head"
            )

    @property
    def has_bias(self) -> bool:
        """Whether a linear map on it may have one: the head of a decoder has none."""
        return self.pooling != "head" or self.removed.bias is not None

    def forward(self, **batch: Tensor) -> Tensor:
        """(n, d), of tags (n, t, d)."""
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        if self.pooling == "head":
            return self.base(**inputs).logits
        decodes = bool(getattr(self.config, "is_encoder_decoder", False))
        backbone = self.base.get_encoder() if decodes else self.base.base_model
        states = backbone(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(torch.float32)
        return (states.float() * mask).sum(1) / mask.sum(1)


class ProbedModel(nn.Module):
    """A frozen model, a linear map on its embeddings, and logits as transformers puts them out.

    Args:
        embedder: the frozen model.
        weight: W, (k, d).
        bias: b, (k,).
        fresh: modules of the head that the checkpoint had no weights for: they are saved too, as
            what the last linear map is given depends on them.

    Attributes:
        head_modules: what is saved, by prefixes of its names in the file.
    """

    def __init__(
        self, embedder: Embedder, weight: Tensor, bias: Tensor, fresh: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.config = embedder.config
        self.fresh = fresh if embedder.pooling == "head" else ()
        self.head_modules = [MAP.rstrip("."), *(f"{HEAD}{name}" for name in self.fresh)]
        self.probe = nn.Linear(weight.shape[1], weight.shape[0])
        self.probe.requires_grad_(False)
        self.probe.weight.copy_(weight)
        self.probe.bias.copy_(bias)
        self.probe.to(next(embedder.base.parameters()).device)

    def forward(self, **batch: Tensor) -> SequenceClassifierOutput:
        """Logits, (n, k), of tags (n, t, k), in float32."""
        states = self.embedder(**batch)
        with precision.autocast("fp32", states.device.type):
            logits = functional.linear(states.float(), self.probe.weight, self.probe.bias)
        return SequenceClassifierOutput(logits=logits)

    def merged(self) -> PreTrainedModel:
        """The model itself with the linear map in its head: plain transformers, for inference.

        Raises:
            UserError: the mean over the tokens is not what its head is given; or the map has a bias
                and the head none.
        """
        embedder = self.embedder
        if embedder.pooling != "head":
            raise UserError(
                f"the head of {type(embedder.base).__name__} is not given the mean over the tokens,"
                " so it cannot hold this probe: train it with method.pooling=head"
            )
        if not embedder.has_bias and self.probe.bias.any():
            raise UserError(
                f"the head of {type(embedder.base).__name__} has no bias, and this probe has one"
            )
        outputs, width = self.probe.weight.shape
        last = nn.Linear(width, outputs, bias=embedder.has_bias)
        tensors = self.probe.state_dict()
        last.load_state_dict({name: tensors[name] for name, _ in last.named_parameters()})
        embedder.base.set_submodule(embedder.last, last)
        return embedder.base

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the linear map, and what else of the head is new."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{MAP}{name}": value for name, value in self.probe.state_dict().items()}
        tensors |= {f"{HEAD}{name}": value for name, value in self._head().items()}
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / WEIGHTS)
        values = {
            POOLING: self.embedder.pooling,
            "fresh": list(self.fresh),
            "base": type(self.embedder.base).__name__,
        }
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def _head(self) -> dict[str, Tensor]:
        """Of the new modules of the head, all but the last linear map."""
        inside = tuple(f"{name}." for name in self.fresh)
        return (
            {
                name: value
                for name, value in self.embedder.base.state_dict().items()
                if name.startswith(inside)
            }
            if inside
            else {}
        )


def load_probe(base: PreTrainedModel, folder: str | Path) -> ProbedModel:
    """``base`` with the linear map saved in ``folder``, for inference.

    Raises:
        UserError: the folder holds no linear map, or one of another model or head.
    """
    folder = Path(folder)
    path = folder / CONFIG
    check_sums(folder)
    values = json_object(path) if path.is_file() else {}
    pooling, fresh = values.get(POOLING), values.get("fresh", [])
    if pooling not in ("mean", "head") or not _names(fresh):
        raise UserError(f"{folder} holds no linear probe ({POOLING} in {CONFIG})")
    check_weights(folder)
    saved = load_file(folder / WEIGHTS)
    width, outputs = _size(saved, path)
    embedder = Embedder(base, pooling)
    model = ProbedModel(embedder, torch.zeros(outputs, width), torch.zeros(outputs), tuple(fresh))
    wanted = {f"{MAP}{name}": value for name, value in model.probe.state_dict().items()}
    wanted |= {f"{HEAD}{name}": value for name, value in model._head().items()}
    fits = outputs == embedder.removed.out_features and _shapes(saved) == _shapes(wanted)
    if not fits or not _takes(embedder, width):
        raise UserError(f"the probe in {folder} is of another model or head than this one")
    with torch.no_grad():
        for name, value in saved.items():
            wanted[name].copy_(value)
    return model.eval()


def _last_linear(base: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Of the head: its name and itself."""
    inside = f"{base.base_model_prefix}."
    found = [
        (name, module)
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    if not found:
        raise UserError(
            f"method linear_probe: {type(base).__name__} has no head that ends in a linear map"
        )
    return found[-1]


def _names(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _size(saved: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """Width d and outputs k of a saved map."""
    weight = saved.get(f"{MAP}weight")
    if weight is None or weight.ndim != 2 or 0 in weight.shape:
        raise UserError(f"{path.parent} is damaged: {WEIGHTS} holds no linear map")
    return weight.shape[1], weight.shape[0]


def _takes(embedder: Embedder, width: int) -> bool:
    """Whether the embeddings have this width."""
    if embedder.pooling == "head":
        return embedder.removed.in_features == width
    config = embedder.config.get_text_config()
    return bool(getattr(config, "hidden_size", width) == width)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
