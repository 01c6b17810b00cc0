"""Split fused projections: GPT-2 computes query, key and value with one matrix, ``c_attn``.

The papers adapt query and value, each with a rank of its own. So ``c_attn`` is trained as three
maps and saved as one,

    [x W_q, x W_k, x W_v] = x [W_q  W_k  W_v] = x W,
    [s_q B_q A_q; 0; s_v B_v A_v] = s B A   with   A = [A_q; A_v],  s B = [s_q B_q   0  ]
                                                                          [  0       0  ]
                                                                          [  0     s_v B_v],

which stock PEFT reads as a LoRA layer of rank r_q + r_v on the stock model. Cross-attention, whose
``c_attn`` makes key and value only, is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bilevel.errors import UserError

__all__ = [
    "PARTS",
    "SplitProjection",
    "built_of_conv1d",
    "fuse",
    "fused_projections",
    "join_split",
    "split_fused",
]

PARTS = ("q", "k", "v")
FUSED = "c_attn"

Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> A (r x in), B (out x r)
Model = TypeVar("Model", bound=nn.Module)


class SplitProjection(nn.Module):
    """A fused projection as three maps ``q``, ``k`` and ``v``, with the fused map's output.

    fused: a Conv1D of n inputs and 3 n outputs. The parts' weights (n x n) and biases are views of
    its storage, so that splitting takes no memory.
    """

    q: nn.Module
    k: nn.Module
    v: nn.Module

    def __init__(self, fused: Conv1D) -> None:
        super().__init__()
        weights = fused.weight.detach().chunk(3, dim=1)
        biases = fused.bias.detach().chunk(3)
        for part, weight, bias in zip(PARTS, weights, biases, strict=True):
            with torch.device("meta"):  # nothing is drawn, so no random state is used up
                piece = Conv1D(weight.shape[1], weight.shape[0])
            piece.weight = nn.Parameter(weight, requires_grad=fused.weight.requires_grad)
            piece.bias = nn.Parameter(bias, requires_grad=fused.bias.requires_grad)
            self.add_module(part, piece)
        self.train(fused.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., 3 n): query, key and value side by side."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def split_fused(model: Model) -> Model:
    """Replace each fused query-key-value projection of ``model`` by a :class:`SplitProjection`.

    The parts are then layers like any other (``transformer.h.0.attn.c_attn.q``). The model is
    changed in place and returned; one without fused projections stays as it is. Only GPT-2's kind
    is split; other fused projections (DeBERTa v1, ModernBERT, GPT-NeoX) keep their one matrix.

    Raises UserError when a fused projection is quantised: packed numbers have no columns to part.
    """
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] != FUSED:
            continue
        if getattr(module, "source_cls", None) is Conv1D:  # transformers' mark on what it quantised
            raise UserError(
                f"{name} is quantised, and a quantised fused projection cannot be split into "
                "query, key and value; load this model without quantisation"
            )
        if _is_fused(module):
            model.set_submodule(name, SplitProjection(module))
    return model


def join_split(model: Model) -> Model:
    """Undo :func:`split_fused`, with the parts' weights as they are now: a stock model again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, SplitProjection):
            pieces = [cast(Conv1D, module.get_submodule(part)) for part in PARTS]
            with torch.device("meta"):
                fused = Conv1D(sum(piece.nf for piece in pieces), pieces[0].nx)
            fused.weight = nn.Parameter(torch.cat([p.weight.detach() for p in pieces], dim=1))
            fused.bias = nn.Parameter(torch.cat([p.bias.detach() for p in pieces]))
            model.set_submodule(name, fused)
    return model


def fused_projections(model: nn.Module) -> list[str]:
    """Return the names of the projections that :func:`split_fused` would split."""
    return [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == FUSED and _is_fused(module)
    ]


def _is_fused(module: nn.Module) -> TypeGuard[Conv1D]:
    return isinstance(module, Conv1D) and module.nf == 3 * module.nx


def fuse(
    model: nn.Module, factors: Factors, scales: Mapping[str, float]
) -> tuple[Factors, dict[str, float]]:
    """Put the factors of split projections together: one LoRA layer for the stock projection.

    model: the base model, split or not. factors: layer name -> A (r x in) and B (out x r), r = 0
    allowed; scales: layer name -> the factor of B A. Returns both for the stock model's layers, the
    others as they are. Where the parts' scales differ, each goes into its part of B.
    """
    fused: Factors = {}
    fused_scales: dict[str, float] = {}
    for name, (A, B) in factors.items():
        parent = name.rpartition(".")[0]
        if not isinstance(model.get_submodule(parent), SplitProjection):
            fused[name], fused_scales[name] = (A, B), scales[name]
        elif parent not in fused:
            parts = {p: f"{parent}.{p}" for p in PARTS if f"{parent}.{p}" in factors}
            used = {scales[full] for full in parts.values() if len(factors[full][0])}
            common = used.pop() if len(used) == 1 else 1.0
            blocks = []
            for part, full in parts.items():
                block = factors[full][1]
                before = PARTS.index(part) * len(block)
                after = (len(PARTS) - 1) * len(block) - before
                if scales[full] != common:
                    block = block * scales[full] / common
                blocks.append(nn.functional.pad(block, (0, 0, before, after)))
            downs = [factors[full][0] for full in parts.values()]
            fused[parent] = (torch.cat(downs), torch.cat(blocks, dim=1))
            fused_scales[parent] = common
    return fused, fused_scales


def built_of_conv1d(model: nn.Module) -> bool:
    """Tell whether a model's linear maps are Conv1D: PEFT's ``fan_in_fan_out`` must say so.

    Conv1D keeps its weight as (in x out), the transpose of ``nn.Linear``'s.
    """
    return any(isinstance(module, Conv1D) for module in model.modules())
