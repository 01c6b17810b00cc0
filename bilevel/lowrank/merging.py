"""Merge an exported adapter into its base model, for readers that know nothing of adapters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilevel.errors import UserError
from bilevel.lowrank.adapter_files import load_adapter

__all__ = ["TOLERANCE", "check_difference", "largest_difference", "logits", "merge"]

# Largest |logit difference| that rounding explains, as a share of the largest |logit|, or of 1
# where all are smaller. Measured: 1e-7 to 1e-5; a wrong merge is above 1e-1.
TOLERANCE = 1e-3


def merge(
    adapter_folder: str | Path,
    base_model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]] = (),
) -> tuple[PreTrainedModel, float]:
    """Return (a plain model in fp32 with the adapter and its head merged in, largest difference).

    adapter_folder: either layout of an export, or any LoRA adapter. base_model stays as it is.
    batches: keyword arguments of the model's forward, on the base model's device. The difference is
    the largest |logit after - logit before merging| over all of them, both in fp32 and in
    evaluation mode; nan without batches. The merged model is returned in evaluation mode.

    Merging adds ``scale * B A`` to the weights in fp32 whatever the base's precision was: in bf16
    an update smaller than 1/256 of a weight would be rounded away. A weight that several modules
    share (an output layer tied to the embeddings) and of which the adapter changes one is untied
    first, in the weights and in the configuration, so that the others stay as they are.

    Raises UserError for a folder without an adapter, a quantised base, an adapter that is damaged
    or does not fit the base, merged weights that are not finite, or a difference above
    :data:`TOLERANCE`.
    """
    folder = Path(adapter_folder)
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no adapter: there is no adapter_config.json in it")
    if getattr(base_model, "is_quantized", False):
        raise UserError(
            "a quantised base model cannot take a merged adapter without loss; "
            "load the base in fp32 or bf16"
        )
    # PEFT puts its layers into the very model it is given.
    base = copy.deepcopy(base_model).float()
    model = load_adapter(base, folder).eval()
    kept = [dict(batch) for batch in batches]
    before = [logits(model, batch) for batch in kept]
    _untie(model)
    try:
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge found a value that is not finite
        raise UserError(f"the adapter in {folder} cannot be merged: {error}") from error
    merged.eval()
    difference = largest_difference([logits(merged, batch) for batch in kept], before)
    check_difference(difference, before, "merging")
    return merged, difference


@torch.no_grad()
def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """What the model puts out for a batch, in its present mode."""
    found: Tensor = model(**batch).logits
    return found


def largest_difference(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest |a - b| over pairs of equal shapes; nan without any."""
    pairs = zip(found, expected, strict=True)
    largest = [(a - b).abs().max().cpu() for a, b in pairs]
    return torch.stack(largest).max().item() if largest else float("nan")  # nan, once there is one


def check_difference(difference: float, expected: Sequence[Tensor], what: str) -> None:
    """Raise UserError for logits that changed by more than rounding.

    difference: the largest. expected: the logits before. what: was done to the model.
    """
    largest = max((tensor.abs().max().item() for tensor in expected), default=0.0)
    allowed = TOLERANCE * max(1.0, largest)
    if expected and not difference <= allowed:  # nan is no small difference
        raise UserError(
            f"{what} changed the logits by up to {difference:.3g}, more than the tolerance of "
            f"{allowed:.3g}: this model and its adapter do not go into one plain model, so use "
            "the adapter as it is"
        )


def _untie(model: PeftModel) -> None:
    """Give every module weights of its own where the adapter changes some that are shared."""
    base = cast(PreTrainedModel, model.get_base_model())
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    adapted: set[int] = set()
    for module in base.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name))
        if isinstance(module, BaseTunerLayer):
            adapted |= {id(p) for p in module.get_base_layer().parameters()}
        elif isinstance(module, AuxiliaryTrainingWrapper):  # a head that is trained in full
            adapted |= {id(p) for p in module.original_module.parameters()}
    if not any(len(owners[key]) > 1 for key in adapted):
        return
    for places in owners.values():
        for module, name in places[1:]:
            shared = module._parameters[name]
            assert shared is not None
            module._parameters[name] = nn.Parameter(shared.detach().clone(), shared.requires_grad)
    # What is read back is tied again where the configuration says so. (T5's is always tied, but
    # transformers ties no weights that differ.)
    base.config.tie_word_embeddings = False
    base.config.get_text_config(decoder=True).tie_word_embeddings = False
    base.all_tied_weights_keys = {}
