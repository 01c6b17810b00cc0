"""Gather what passes through the LoRA layers: moments of A x, of W x and of the loss's gradient.

Over **valid tokens**, those that the batch's ``attention_mask`` says are no padding. In an encoder
with a decoder the decoder's layers have the decoder's own mask (``decoder_attention_mask``, or the
places that have a label; a decoder that reads the input has the input's), but for those that read
what the encoder put out. Where no mask fits, as behind a pooling layer or of a model without masks,
every row counts, but for what passes through a layer after a batch's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilevel.cutting.criteria.passes import passes
from bilevel.labels import NO_LABEL
from bilevel.lowrank.layers import down_and_up, lora_layers
from bilevel.precision import in_float64

__all__ = ["Moments", "moments"]


@dataclass
class Moments:
    """Sums over the valid tokens of a layer, in float64.

    Attributes:
        down: (r, r), of (A x)(A x)^T.
        output: of ||W x||^2, W the frozen weight, without its bias.
        gradient: of ||dL/dy||^2, y the layer's output and L an example's loss; 0 where not asked.
        tokens: how many.
    """

    down: Tensor
    output: float = 0.0
    gradient: float = 0.0
    tokens: int = 0


def moments(
    model: PeftModel,
    batches: Sequence[dict[str, Tensor]],
    gradients: bool = False,
    adapter: str = "default",
) -> dict[str, Moments]:
    """Layer -> what passed through it, one forward a batch and, with ``gradients``, one backward.

    No more than one batch's activations are held.

    Args:
        model: with plain LoRA.
        batches: padded, with ``labels``.
        gradients: of the loss too; a batch's mean loss counts for each of its examples.
        adapter: which.
    """
    layers = lora_layers(model, adapter)
    ups = [down_and_up(layer, adapter)[1].weight for layer in layers.values()]
    watch = _Watch(model, layers, adapter)
    with passes(model, ups if gradients else ()) as handles:
        for handle in watch.hooks(gradients):
            handles.add(handle)
        for batch in batches:
            watch.batch = batch
            watch.masked.clear()
            with nullcontext() if gradients else torch.no_grad():
                loss = model(**batch).loss
            if gradients:  # of B only because a graph needs a leaf; the outputs' hooks look on
                torch.autograd.grad(loss * len(batch["labels"]), ups, allow_unused=True)
    return watch.found


class _Watch:
    """Hooks that add to ``found`` what passes by in the forward of ``batch``."""

    def __init__(self, model: PeftModel, layers: dict[str, LoraLayer], adapter: str) -> None:
        self.layers = layers
        self.adapter = adapter
        self.found = {
            name: Moments(torch.zeros(layer.r[adapter], layer.r[adapter], dtype=torch.float64))
            for name, layer in layers.items()
        }
        self.batch: dict[str, Tensor] = {}
        self.encoder: nn.Module | None = None
        self.inside: set[nn.Module] = set()
        base = model.get_base_model()
        if isinstance(base, PreTrainedModel) and base.config.is_encoder_decoder:
            self.encoder = base.get_encoder()
            self.inside = set(self.encoder.modules())
        self.encoded: Tensor | None = None
        self.valid: dict[str, Tensor | None] = {}
        self.masked: set[str] = set()  # layers that have seen this batch's tokens

    def hooks(self, gradients: bool) -> list[Any]:
        """Put the hooks on; the handles to take them off by."""
        handles: list[Any] = []
        if self.encoder is not None:
            handles.append(self.encoder.register_forward_hook(self._encoded))
        for name, layer in self.layers.items():
            module: Any = layer
            down, _ = down_and_up(layer, self.adapter)
            handles.append(module.register_forward_pre_hook(partial(self._enters, name)))
            handles.append(down.register_forward_hook(partial(self._down, name)))
            handles.append(module.base_layer.register_forward_hook(partial(self._base, name)))
            if gradients:
                handles.append(module.register_forward_hook(partial(self._leaves, name)))
        return handles

    def _encoded(self, module: nn.Module, args: Any, output: Any) -> None:
        self.encoded = output[0]

    def _enters(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].shape[:-1]
        fits = (mask for mask in self._masks(module, args[0]) if _fits(mask, rows))
        mask = next(fits, None)
        if mask is None and name in self.masked:  # no tokens: DeBERTa's relative positions
            mask = torch.zeros(rows, dtype=torch.bool, device=args[0].device)
        elif mask is not None:
            self.masked.add(name)
        self.valid[name] = None if mask is None else mask.reshape(rows).bool()
        self.found[name].tokens += int(mask.sum()) if mask is not None else rows.numel()

    def _masks(self, module: nn.Module, x: Tensor) -> list[Tensor]:
        """Which may be those of a layer with input x, the likeliest first."""
        # of several texts an example, (n, choices, tokens), the layers see (n choices, tokens)
        found = self.batch.get("attention_mask")
        own = [] if found is None else [found.flatten(0, -2)]
        reads_encoder = (
            self.encoded is not None
            and x.data_ptr() == self.encoded.data_ptr()
            and x.shape == self.encoded.shape
        )
        if self.encoder is None or module in self.inside or reads_encoder:
            return own
        labels = [self.batch["labels"] != NO_LABEL]
        if "decoder_attention_mask" in self.batch:
            labels = [self.batch["decoder_attention_mask"]]
        return labels + own

    def _rows(self, name: str, values: Tensor) -> Tensor:
        """(tokens, size) in float64, of the valid ones."""
        valid = self.valid[name]
        rows = values.detach() if valid is None else values.detach()[valid]
        return in_float64(rows.reshape(-1, values.shape[-1]))

    def _down(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        rows = self._rows(name, output)
        self.found[name].down += (rows.T @ rows).cpu()

    def _base(self, name: str, module: Any, args: Any, output: Tensor) -> None:
        without = output if module.bias is None else output - module.bias
        self.found[name].output += float(self._rows(name, without).square().sum())

    def _leaves(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        valid = self.valid[name]

        def add(gradient: Tensor) -> None:
            rows = gradient if valid is None else gradient[valid]
            self.found[name].gradient += float(in_float64(rows).square().sum())

        output.register_hook(add)


def _fits(mask: Tensor, rows: torch.Size) -> bool:
    """Whether a (batch, tokens) mask is that of rows in this form; some models flatten both."""
    return mask.dim() == 2 and rows in (mask.shape, torch.Size([mask.numel()]))
