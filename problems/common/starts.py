"""Start LoRA's factors as PEFT's options say, where injecting them is not all there is to do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_eva_state_dict
from torch import Tensor

from bilevel import precision
from bilevel.errors import UserError
from bilevel.lowrank.layers import down_and_up, lora_layers
from bilevel.lowrank.moved_base import remember_start
from problems.common.method import Job
from problems.common.peft_options import PeftOptions

__all__ = ["started"]

BATCHES = 500  # in which EVA's components must have settled
START = "method.peft.init_lora_weights"


def started(
    model: PeftModel,
    job: Job,
    options: PeftOptions,
    rows: Sequence[dict[str, Any]] | None = None,
) -> PeftModel:
    """Finish what the injection of LoRA with ``options.start()`` has begun; changes the model.

    Args:
        model: with the adapter ``default``.
        job: with the training data, for eva.
        options: which start.
        rows: the tokenised examples that are trained on; None for all of the training data.

    Raises:
        UserError: eva's components do not settle.
    """
    if options.moves_base:
        remember_start(model)
        # To whoever reads the model from now on, the adapter is plain LoRA.
        vars(model.peft_config["default"])["init_lora_weights"] = True
    if options.init_lora_weights == "eva":
        _explained_variance(model, job, job.data.examples if rows is None else rows)
    return model


def _explained_variance(model: PeftModel, job: Job, rows: Sequence[dict[str, Any]]) -> None:
    """Set each A to its layer's first principal components on the training data, by PEFT."""
    layers = lora_layers(model)
    largest = max(int(layer.r["default"]) for layer in layers.values())
    narrow = min(down_and_up(layer)[0].in_features for layer in layers.values())
    if largest > narrow:
        raise UserError(f"{START}=eva: rank {largest} is more than the {narrow} inputs of a layer")
    # rho 1 gives every layer its own rank: ranks are for the method to choose.
    config = LoraConfig(
        r=largest,
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0, use_label_mask=False),
    )
    if not getattr(model.get_base_model(), "is_quantized", False):  # those are where they belong
        model.to(job.device)
    number_format = precision.resolve(job.settings.precision, job.device)
    with precision.autocast(number_format, job.device.type):
        found = get_eva_state_dict(
            model,
            _Batches(job, rows),
            peft_config=config,
            prepare_model_inputs_fn=_mask,
            prepare_layer_inputs_fn=_tokens,
            show_progress_bar=False,
        )
    components = {name.removeprefix("base_model.model."): rows for name, rows in found.items()}
    with torch.no_grad():
        for name, layer in layers.items():
            A = down_and_up(layer)[0].weight
            A.copy_(components[name][: len(A)])


class _Batches:
    """Batches of the training data in an order of the seed's, passed over as often as asked.

    Raises:
        UserError: there have been `BATCHES` of them.
    """

    def __init__(self, job: Job, rows: Sequence[dict[str, Any]]) -> None:
        self.job, self.rows, self.drawn = job, rows, 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.job.settings.batch_size)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        size = self.job.settings.batch_size
        order = random.Random(self.job.seed).sample(range(len(self.rows)), len(self.rows))
        for start in range(0, len(order), size):
            self.drawn += 1
            if self.drawn > BATCHES:
                raise UserError(
                    f"{START}=eva has not settled after {BATCHES} batches of {size} examples: take "
                    "a larger train.batch_size, a smaller method.rank, or another start"
                )
            yield self.job.data.collate([self.rows[i] for i in order[start : start + size]])


def _mask(batch: Mapping[str, Tensor], config: LoraConfig) -> Tensor | None:
    """Which tokens are no padding."""
    mask = batch.get("attention_mask")
    return None if mask is None else mask.bool()


def _tokens(inputs: Any, mask: Tensor | None, name: str) -> Tensor:
    """A layer's inputs, (tokens, in), without padding where they are of the text's length."""
    x: Tensor = inputs if isinstance(inputs, Tensor) else inputs[0]
    if mask is not None and x.shape[:-1] == mask.shape:
        return x[mask.to(x.device)]
    return x.reshape(-1, x.shape[-1])
