"""Save a fine-tuned model in the form that suits it, and read it back.

| what was trained | folders | read by |
|---|---|---|
| plain LoRA, gates or not | ``adapter``, ``adapter_compact`` | stock PEFT |
| another PEFT method (DoRA, IA3, prompts, ...) | ``adapter`` | stock PEFT |
| bottleneck adapters | ``adapter`` | ``problems.adapters.load_adapters`` |
| a linear probe | ``adapter`` | ``problems.linear_probe.load_probe`` |
| weights of the model itself | ``model`` | stock transformers |

Of classes and tags, a whole model's configuration has their names (``id2label``). An adapter has
none of its own, and a config.json beside it would make transformers take its folder for a whole
model: ``labels.json`` there says the names, in the words of transformers' configurations.

A run that was started from another (``model.warm_start``) keeps the weights that its adapter
belongs to in ``base``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

from bilevel.checkpoint import sums
from bilevel.checkpoint.disk import told_when_full
from bilevel.errors import UserError
from bilevel.lowrank import export_adapter
from bilevel.lowrank.adapter_files import check_weights, load_adapter
from bilevel.lowrank.export import COMPACT
from bilevel.reading import json_object
from experiments.answers import Answers
from experiments.cli.writing import write_atomically
from experiments.models.heads import label_names
from experiments.results import record
from problems.adapters import BottleneckModel, load_adapters
from problems.common.method import Outcome
from problems.linear_probe.model import POOLING, ProbedModel, load_probe

__all__ = [
    "ADAPTER",
    "LABELS",
    "MODEL",
    "Saved",
    "load",
    "name_labels",
    "named_labels",
    "places",
    "refuse_code",
    "save",
    "seal",
    "write",
]

ADAPTER = "adapter"
MODEL = "model"
LABELS = "labels.json"
ADAPTER_CONFIG = "adapter_config.json"
# Options of a model's configuration that may name what to fetch and run; of some, transformers
# takes more than one spelling (attn_implementation, _attn_implementation_internal).
NAMES_CODE = re.compile(r".*_implementation.*|quantization_config")
PLAIN = ("eager", "sdpa", "batched_mm", "grouped_mm")


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        folder: the one to load from.
        parameters: saved, without heads; of LoRA in the compact layout. Those of the whole model
            when it is saved as a whole.
        head_parameters: of heads saved beside an adapter.
        ranks: layer -> rank as saved; None without ranks.
    """

    folder: Path
    parameters: int
    head_parameters: int
    ranks: dict[str, int] | None = None


def save(outcome: Outcome, folder: Path) -> Saved:
    """Write the fine-tuned model below ``folder``.

    Raises:
        UserError: the disk is full, or the adapter cannot be written as plain LoRA.
    """
    return write(outcome.model, folder, outcome.keep)


def write(model: Any, folder: Path, keep: Mapping[str, torch.Tensor] | None = None) -> Saved:
    """Write a model below ``folder``, in the form that suits it.

    Args:
        model: fine-tuned: a PEFT model, one with adapters of ours, or a plain transformers model.
        folder: for ``adapter``, ``adapter_compact`` or ``model``.
        keep: of plain LoRA, layer -> boolean mask (r,) of the components that are saved.

    Raises:
        UserError: the disk is full, or the adapter cannot be written as plain LoRA.
    """
    if isinstance(model, PeftModel) and _is_plain_lora(model):
        report = export_adapter(model, folder, keep=keep)
        return Saved(report.adapter, report.parameters, report.head_parameters, report.ranks)
    if keep is not None:
        raise TypeError("only the components of plain LoRA can be kept or cut")
    whole = isinstance(model, PreTrainedModel)
    out = folder / (MODEL if whole else ADAPTER)
    with told_when_full(out):
        if isinstance(model, PeftModel):
            # "auto" may look for the base model on the hub.
            model.save_pretrained(str(out), save_embedding_layers=False)
        else:
            model.save_pretrained(str(out))
    heads = () if whole else _heads(model)
    sizes = {False: 0, True: 0}
    for name, size in _sizes(out).items():
        sizes[any(f"{head}." in name for head in heads)] += size
    return Saved(out, sizes[False], sizes[True])


def load(folder: Path, base: PreTrainedModel) -> torch.nn.Module:
    """Read a saved model back as its users would; ``base`` is the pretrained one, with any head.

    Raises:
        UserError: the folder holds no adapter and no model, or one that does not fit ``base``.
    """
    try:
        config = folder / ADAPTER_CONFIG
        said = json_object(config) if config.is_file() else {}
        if "bottleneck_type" in said:
            return load_adapters(base, folder)
        if POOLING in said:
            return load_probe(base, folder)
        if config.is_file():
            return load_adapter(base, folder)
        if (folder / "config.json").is_file():
            return _load_model(folder, base)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        # Sizes differ; what transformers makes of a configuration that is not one.
        if isinstance(error, UserError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise UserError(f"what is in {folder} does not fit the model: {reason}") from error
    raise UserError(f"{folder} holds no adapter (adapter_config.json) and no model (config.json)")


def name_labels(answers: Answers, folders: Iterable[Path]) -> None:
    """Write ``labels.json``, the names of classes or tags, into the folders that hold an adapter.

    Args:
        answers: what the model puts out; nothing is written without names.
        folders: of adapters or whole models.

    Raises:
        UserError: the disk is full.
    """
    if answers.names is None:
        return
    text = json.dumps(label_names(answers), indent=2, ensure_ascii=False) + "\n"
    for folder in folders:
        if (folder / ADAPTER_CONFIG).is_file():
            with told_when_full(folder):
                write_atomically(folder / LABELS, text)


def named_labels(folder: Path) -> tuple[str, ...] | None:
    """The names that ``labels.json`` in an adapter's folder says; None without the file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / LABELS
    if not path.exists():
        return None
    names = json_object(path, needs=("id2label",))["id2label"]
    numbers = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if not numbers or sorted(names) != sorted(numbers):
        raise UserError(f"{path} is damaged: id2label does not name the outputs from 0 on")
    found = tuple(names[number] for number in numbers)
    if not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
        raise UserError(f"{path} is damaged: id2label's names are no different texts")
    return found


def seal(folder: Path) -> None:
    """Write checksums of what is saved below a run's folder, and force it to the disk."""
    for path in (*places(folder), folder / record.BASE):
        if path.is_dir():
            sums.seal(path)


def places(folder: Path) -> list[Path]:
    """Where a run's folder may have a saved model."""
    return [folder / name for name in (ADAPTER, COMPACT, MODEL)]


def refuse_code(folder: Path) -> None:
    """Refuse a run's saved model whose configuration names code to fetch and run.

    Raises:
        UserError: names the option.
    """
    for key, value in _options(json_object(folder / "config.json")):
        if value and NAMES_CODE.fullmatch(key) and value not in PLAIN:
            raise UserError(f"{folder / 'config.json'}: {key}={value} is not followed")


def _load_model(folder: Path, base: PreTrainedModel) -> PreTrainedModel:
    sums.check_sums(folder)
    refuse_code(folder)
    if not (folder / "model.safetensors.index.json").is_file():
        check_weights(folder, "model.safetensors")
    return type(base).from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True)


def _options(values: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of all options, those of a model's parts too."""
    rest = [values]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            yield from value.items()
            rest += value.values()
        elif isinstance(value, list):
            rest += value


def _is_plain_lora(model: PeftModel) -> bool:
    config = model.peft_config["default"]
    return type(config) is LoraConfig and not config.use_dora


def _heads(model: PeftModel | BottleneckModel | ProbedModel) -> list[str]:
    """Names of the modules that are saved in full beside an adapter."""
    if isinstance(model, BottleneckModel | ProbedModel):
        return model.head_modules
    return list(getattr(model.peft_config["default"], "modules_to_save", None) or ())


def _sizes(folder: Path) -> dict[str, int]:
    """Elements of each tensor in a folder's safetensors files."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                found[name] = size
    return found
