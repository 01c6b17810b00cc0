"""Say whether an adapter's configuration only describes an adapter, in values that it can have.

PEFT believes what ``adapter_config.json`` says: some of its options name modules to import, files
to unpickle or models of the hub to fetch, others are regular expressions, which may take for ever
to match. So only options that describe an adapter are let through, of the types and in the ranges
that they have; patterns are tried on the model's own names in a process that can be ended.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import PEFT_TYPE_TO_CONFIG_MAPPING

from bilevel.errors import UserError, listed
from bilevel.reading import json_object

__all__ = ["check_options", "check_patterns"]

BIAS = ("none", "all", "lora_only")
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
    # How a start was found, numbers that nothing reads afterwards.
    "eva_config": (dict, type(None)),
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
# How PEFT matches the patterns of an option against a module's name: a text as a whole, and names
# in a list where they may be expressions too.
WHOLE = "fullmatch", "{}"
AT_THE_END = "match", r"(.*\.)?({})$"
INSIDE = "match", r"(^|.*\.){}($|\..*)"
BEFORE_A_NUMBER = "match", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
TEXTS = {"target_modules": WHOLE, "exclude_modules": WHOLE, "feedforward_modules": WHOLE}
LISTS = {
    "layers_pattern": BEFORE_A_NUMBER,
    "modules_to_save": INSIDE,
    "rank_pattern": AT_THE_END,
    "alpha_pattern": AT_THE_END,
}
NAME = re.compile(r"\^?[\w.-]+\$?")  # matched in no time; nothing in it is repeated
LONGEST = 10_000  # characters of a pattern
SECONDS = 10.0  # for all patterns on all names: milliseconds are usual
TRIAL = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for how, pattern in patterns:
    for name in names:
        getattr(re, how)(pattern, name)
"""


def check_options(path: Path) -> dict[str, Any]:
    """What an adapter's configuration says, where all of it only describes an adapter.

    Raises:
        UserError: it is damaged, of a kind that is not read, has other options, or values that no
            adapter has.
    """
    values = json_object(path, needs=("peft_type",))
    kind = values["peft_type"]
    if not isinstance(kind, str) or kind not in OPTIONS:
        raise UserError(f"{path}: peft_type={kind} is not read, only {listed(OPTIONS)} are")
    known, usual = OPTIONS[kind], PEFT_TYPE_TO_CONFIG_MAPPING[kind]().to_dict()  # type: ignore[index]
    for key, value in values.items():
        if key in known:
            if not _is_a(value, known[key]):
                raise UserError(f"{path} is damaged: {key}={value} is of another type")
        elif value and key in usual and value != usual[key]:  # what it does not know, PEFT drops
            raise UserError(
                f"{path}: {key}={value} is not read: besides what describes an adapter, options "
                "may name code to import or models to fetch"
            )
    _check_values(values, path)
    for key in (*TEXTS, *LISTS):
        for name in _as_list(values.get(key)):
            if not isinstance(name, str):
                raise UserError(f"{path}: {key} has {name!r}, which is no name of a module")
    for _, pattern, given in _patterns(values):
        if len(pattern) > LONGEST:
            raise UserError(f"{path}: a pattern of {len(pattern)} characters is not read")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"{path} is damaged: {given!r} is no name of a module and no regular expression "
                f"({error})"
            ) from error
    return values


def check_patterns(values: Mapping[str, Any], names: Iterable[str], path: Path) -> None:
    """See that a configuration's regular expressions are matched against names in a short time.

    Args:
        values: the configuration, as :func:`check_options` has seen it.
        names: of the model's modules.
        path: of the configuration, for messages.

    Raises:
        UserError: they take more than ten seconds.
    """
    found = [one for one in _patterns(values) if not NAME.fullmatch(one[2])]
    if not found:
        return
    asked = json.dumps([[(how, pattern) for how, pattern, _ in found], list(names)])
    try:
        # A match cannot be stopped from inside its process.
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", TRIAL],
            input=asked,
            text=True,
            check=True,
            timeout=SECONDS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        given = listed(given for _, _, given in found)
        raise UserError(
            f"{path}: its regular expressions are not matched with the model's modules in "
            f"{SECONDS:g} seconds: {given[:200]}"
        ) from error


def _is_a(value: Any, types: tuple[type, ...]) -> bool:
    """True is no number, though Python calls it one."""
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _check_values(values: Mapping[str, Any], path: Path) -> None:
    """Of numbers that PEFT calculates with, and words that it knows."""
    alphas = {
        f"alpha_pattern {key}": value for key, value in values.get("alpha_pattern", {}).items()
    }
    for key, value in {"lora_alpha": values.get("lora_alpha", 1), **alphas}.items():
        if not _is_a(value, NUMBER) or not abs(value) < sys.float_info.max:
            raise UserError(f"{path} is damaged: {key}={value} is no finite number")
    for key, value in values.get("rank_pattern", {}).items():
        if not _is_a(value, (int,)) or value < 1:
            raise UserError(
                f"{path} is damaged: rank_pattern {key}={value} is no integer from 1 on"
            )
    dropout = values.get("lora_dropout", 0)
    if not 0 <= dropout <= 1:
        raise UserError(f"{path} is damaged: lora_dropout={dropout} is no number from 0 to 1")
    if values.get("bias", "none") not in BIAS:
        raise UserError(f"{path} is damaged: bias={values['bias']}, known are {listed(BIAS)}")


def _patterns(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(function of ``re``, expression, as it is written) of all that PEFT matches with names."""
    texts = [(TEXTS[key], values[key]) for key in TEXTS if isinstance(values.get(key), str)]
    lists = [(LISTS[key], given) for key in LISTS for given in _as_list(values.get(key))]
    return [(how, form.format(given), given) for (how, form), given in [*texts, *lists]]


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | dict) else [given]
