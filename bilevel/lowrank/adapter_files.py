"""Read an adapter's folder onto its base model by stock PEFT, once it is seen to be one.

PEFT believes what ``adapter_config.json`` says: some of its options name modules to import, files
to unpickle or models of the hub to fetch, and weights may be pickles. A folder may be somebody
else's, or damaged; so only options that describe an adapter are let through, only safetensors are
read, and every tensor that the adapter should have must be there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from bilevel.checkpoint.sums import check_sums
from bilevel.errors import UserError, listed
from bilevel.reading import json_object

__all__ = ["check_options", "check_weights", "load_adapter"]

TEXT = (str, type(None))
NAMES = (str, list, type(None))
NUMBER = (int, float)
ANY_KIND: dict[str, tuple[type, ...]] = {
    "peft_type": (str,),
    "task_type": TEXT,
    "peft_version": TEXT,
    "inference_mode": (bool,),
    "modules_to_save": (list, type(None)),
    # Not read by PEFT when the base model is given.
    "auto_mapping": (dict, type(None)),
    "base_model_name_or_path": TEXT,
    "revision": TEXT,
}
TARGETS: dict[str, tuple[type, ...]] = {
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "fan_in_fan_out": (bool,),
}
LORA: dict[str, tuple[type, ...]] = {
    **ANY_KIND,
    **TARGETS,
    "r": (int,),
    "lora_alpha": NUMBER,
    "lora_dropout": NUMBER,
    "bias": (str,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "lora_bias": (bool,),
    "init_lora_weights": (bool, str),
    "layers_to_transform": (list, int, type(None)),
    "layers_pattern": NAMES,
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "layer_replication": (list, type(None)),
    "trainable_token_indices": (list, dict, type(None)),
    "target_parameters": (list, type(None)),
    "ensure_weight_tying": (bool,),
    "qalora_group_size": (int,),
}
PROMPT: dict[str, tuple[type, ...]] = {
    **ANY_KIND,
    "num_virtual_tokens": (int,),
    "token_dim": (int,),
    "num_transformer_submodules": (int, type(None)),
    "num_attention_heads": (int, type(None)),
    "num_layers": (int, type(None)),
    "prompt_tuning_init": (str,),
    "encoder_hidden_size": (int, type(None)),
    "prefix_projection": (bool,),
    "init_weights": (bool, type(None)),
}
# Options that may be other than PEFT's defaults, and of which type.
OPTIONS: dict[str, dict[str, tuple[type, ...]]] = {
    "LORA": LORA,
    "IA3": {**ANY_KIND, **TARGETS, "feedforward_modules": NAMES, "init_ia3_weights": (bool,)},
    "PROMPT_TUNING": PROMPT,
    "PREFIX_TUNING": PROMPT,
}
# What PEFT takes for regular expressions; a repeated group may take for ever.
REPEATED_GROUP = re.compile(r"\)\s*[*+{]")


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
    options = check_options(folder / CONFIG_NAME)
    saved = check_weights(folder)
    _check_sizes(options, saved, folder)
    try:
        model = PeftModel.from_pretrained(base, str(folder))
        needed = get_peft_model_state_dict(model, save_embedding_layers=False)
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        # Target modules not found; sizes differ; what PEFT makes of an odd option.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise UserError(f"the adapter in {folder} does not fit the base model: {reason}") from error
    missing = sorted(needed.keys() - saved.keys())
    if missing:  # which PEFT leaves at what they start from
        raise UserError(
            f"{folder / SAFETENSORS_WEIGHTS_NAME} is damaged, or of another model: it lacks "
            f"{len(missing)} of {len(needed)} tensors, e.g. {missing[0]}"
        )
    return model


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
    try:
        with safe_open(str(path), "pt") as file:
            names = list(file.keys())
            return {name: file.get_slice(name).get_shape() for name in names}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged, it is no safetensors file: {error}") from error


def check_options(path: Path) -> dict[str, Any]:
    """What an adapter's configuration says, where all of it only describes an adapter.

    Raises:
        UserError: it is damaged, of a kind that is not read, or has other options.
    """
    values = json_object(path, needs=("peft_type",))
    kind = values["peft_type"]
    if not isinstance(kind, str) or kind not in OPTIONS:
        raise UserError(f"{path}: peft_type={kind} is not read, only {listed(OPTIONS)} are")
    known, usual = OPTIONS[kind], PEFT_TYPE_TO_CONFIG_MAPPING[kind]().to_dict()  # type: ignore[index]
    for key, value in values.items():
        if key in known:
            if not isinstance(value, known[key]):
                raise UserError(f"{path} is damaged: {key}={value} is of another type")
        elif value and key in usual and value != usual[key]:  # what it does not know, PEFT drops
            raise UserError(
                f"{path}: {key}={value} is not read: besides what describes an adapter, options "
                "may name code to import or models to fetch"
            )
    for pattern in _patterns(values):
        if not isinstance(pattern, str) or REPEATED_GROUP.search(pattern):
            raise UserError(f"{path}: {pattern!r} is no name of a module")
    return values


def _check_sizes(options: dict[str, Any], saved: dict[str, list[int]], folder: Path) -> None:
    """Before memory is taken for them."""
    largest = max((size for shape in saved.values() for size in shape), default=0)
    ranks = [*options.get("rank_pattern", {}).values()]
    for size in (options.get("r", 1), options.get("num_virtual_tokens", 1), *ranks):
        if not isinstance(size, int) or not 1 <= size <= largest:
            raise UserError(f"the adapter in {folder} is damaged: its tensors have no size {size}")


def _patterns(values: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        given = values.get(key)
        found += given if isinstance(given, list) else [] if given is None else [given]
    return [*found, *values.get("rank_pattern", ()), *values.get("alpha_pattern", ())]
