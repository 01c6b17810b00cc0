"""Read an adapter's folder onto its base model by stock PEFT, once it is seen to be one.

A folder may be somebody else's, or damaged. So only options that describe an adapter are let
through (:mod:`bilevel.lowrank.adapter_options`), and only safetensors are read, for weights may be
pickles. Every tensor that the adapter should have must be there, and none that it should not have:
PEFT puts those into the base model, or drops them in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from bilevel.checkpoint.sums import check_sums
from bilevel.errors import UserError, listed
from bilevel.lowrank.adapter_options import check_options, check_patterns

__all__ = ["check_files", "check_weights", "load_adapter", "opened"]

PREFIX = "base_model.model."  # which PEFT puts before the names of the base model's modules
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """``base`` with the adapter in a folder, as stock PEFT reads it.

    Args:
        base: the pretrained model, with any head; PEFT puts its layers into it.
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        UserError: there is no adapter in the folder, or it is damaged, of a kind that is not read,
            names something to import or to fetch, or does not fit ``base``.
    """
    check_sums(folder)
    path = folder / SAFETENSORS_WEIGHTS_NAME
    options, saved = check_files(folder)
    check_patterns(options, (name for name, _ in base.named_modules()), folder / CONFIG_NAME)
    own = base.state_dict()
    same = {name for name in saved if _is_of(own, name, path)}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # told below
            model = PeftModel.from_pretrained(base, str(folder))
        needed = get_peft_model_state_dict(model, save_embedding_layers=False)
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        # Target modules not found; sizes differ; what PEFT makes of an odd option.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise UserError(f"the adapter in {folder} does not fit the base model: {reason}") from error
    missing = sorted(needed.keys() - saved.keys())
    if missing:  # which PEFT leaves at what they start from
        raise UserError(
            f"{path} is damaged, or of another model: it lacks "
            f"{len(missing)} of {len(needed)} tensors, e.g. {missing[0]}"
        )
    strange = sorted(saved.keys() - needed.keys() - same)
    if strange:  # which PEFT drops, or puts in the place of the base model's own weights
        raise UserError(
            f"{path} is damaged, or of another model or other options than {CONFIG_NAME} says: "
            f"{len(strange)} of its {len(saved)} tensors are not the adapter's, e.g. {strange[0]}"
        )
    return model


def check_files(folder: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """What an adapter's configuration says, and its tensors' shapes, where both can be right.

    Raises:
        UserError: as :func:`load_adapter`, as far as it can be told without the base model.
    """
    options = check_options(folder / CONFIG_NAME)
    saved = check_weights(folder)
    _check_floats(folder)
    _check_sizes(options, saved, folder)
    return options, saved


def check_weights(folder: Path, name: str = SAFETENSORS_WEIGHTS_NAME) -> dict[str, list[int]]:
    """The tensors that a folder's adapter has, and their shapes.

    Raises:
        UserError: there are none, or they are pickled or damaged.
    """
    path = folder / name
    if not path.is_file():
        pickled = sorted(p.name for end in ("bin", "pt", "pth") for p in folder.glob(f"*.{end}"))
        if pickled:
            raise UserError(
                f"{folder / pickled[0]} is not read: it is a pickle, which can run code; only "
                f"safetensors are ({path.name})"
            )
        raise UserError(f"{path} is missing: there are no weights")
    with opened(path) as file:
        names = list(file.keys())
        return {name: file.get_slice(name).get_shape() for name in names}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, to read one tensor at a time.

    Raises:
        UserError: it is damaged.
    """
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is damaged, it is no safetensors file: {error}") from error


def _is_of(own: dict[str, Tensor], name: str, path: Path) -> bool:
    """Whether a tensor is the base model's, as PEFT saves embeddings beside an adapter of them."""
    if ".lora_" in name or not name.startswith(PREFIX):
        return False
    theirs = own.get(name.removeprefix(PREFIX).replace(".base_layer.", "."))
    if theirs is None:
        return False
    with opened(path) as file:
        found = file.get_tensor(name)
    return found.shape == theirs.shape and bool(torch.equal(found.to(theirs), theirs))


def _check_floats(folder: Path) -> None:
    """PEFT makes floating-point numbers of anything."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            kind = file.get_slice(name).get_dtype()
            if kind not in FLOATS:
                raise UserError(
                    f"{path} is no adapter's: {name} is of type {kind}, known are {listed(FLOATS)}"
                )


def _check_sizes(options: dict[str, Any], saved: dict[str, list[int]], folder: Path) -> None:
    """Before memory is taken for them."""
    largest = max((size for shape in saved.values() for size in shape), default=0)
    ranks = [*options.get("rank_pattern", {}).values()]
    for size in (options.get("r", 1), options.get("num_virtual_tokens", 1), *ranks):
        if not isinstance(size, int) or not 1 <= size <= largest:
            raise UserError(f"the adapter in {folder} is damaged: its tensors have no size {size}")
