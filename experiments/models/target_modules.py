"""Find where adapters go: the names of a transformer's linear maps, and of its head.

Names are looked for in the model itself, not in a list of architectures, so that any model built
of the usual parts is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["head_modules", "matching", "outputs_of_maps", "outside_layers", "target_modules"]

# (query, value) as the architectures call them. The first pair that a model has is taken.
QUERY_VALUE: tuple[tuple[str, ...], ...] = (
    ("query", "value"),  # BERT, RoBERTa, ELECTRA, XLM-RoBERTa
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
    ("q_lin", "v_lin"),  # DistilBERT
    ("q_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, BART
    ("q", "v"),  # T5; GPT-2 after `bilevel.lowrank.split_fused`
    # Query, key and value are one matrix, and get one adapter.
    ("in_proj",),  # DeBERTa v1
    ("Wqkv",),  # ModernBERT
    ("c_attn",),  # GPT-2 as it is
    ("query_key_value",),  # GPT-NeoX, Bloom, Falcon
    ("qkv_proj",),  # Phi-3
)


def target_modules(model: PreTrainedModel, target: str | Sequence[str]) -> list[str]:
    """Return the full names of the linear maps to adapt, in the model's order.

    Args:
        model: any transformers model, on any device.
        target: "qv" (query and value, as the papers), "all" (every linear map of the layers:
            attention and feed-forward, not embeddings, pooler or head), or a list of full names
            or of their endings ("query", "output.dense").

    Raises:
        UserError: nothing in the model matches; the message lists the linear maps there are.
    """
    return matching(_linear_names(model), target, type(model).__name__)


def matching(names: list[str], target: str | Sequence[str], model: str) -> list[str]:
    """As :func:`target_modules`, of a model that is not there.

    Args:
        names: of its linear maps, in its order.
        target: as there.
        model: what to call it in a message.

    Raises:
        UserError: nothing matches.
    """
    if target == "all":
        found = [name for name in names if _in_layers(name)]
        return found or _nothing(model, "target 'all'", names)
    if target == "qv":
        for wanted in QUERY_VALUE:
            found = [name for name in names if _in_layers(name) and _ending(name) in wanted]
            if {_ending(name) for name in found} == set(wanted):
                return found
        return _nothing(model, "target 'qv'", names)
    patterns = [target] if isinstance(target, str) else list(target)
    if not patterns:
        return _nothing(model, "an empty list of targets", names)
    found = []
    for pattern in patterns:
        matching = [name for name in names if name == pattern or name.endswith("." + pattern)]
        found += matching or _nothing(model, f"target {pattern!r}", names)
    return [name for name in names if name in set(found)]


def head_modules(model: PreTrainedModel, fresh: Sequence[str] = ()) -> list[str]:
    """Return the names of the modules that are trained in full and saved with the adapter.

    These are the task head (whatever holds parameters outside the backbone: `classifier`;
    DistilBERT's `pre_classifier`, DeBERTa's `pooler`; Llama's `score`) and the pooler of a
    checkpoint that brings no weights for it. BERT's pretrained pooler stays frozen.

    Args:
        model: a model with a head.
        fresh: the parameters that loading had to initialise, as `from_pretrained` reports them.

    Raises:
        UserError: the checkpoint lacks weights inside the layers, so it is not of this model.
    """
    head = [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]
    inside = [name for name in fresh if name.split(".")[0] not in head]
    poolers = {name[: name.index("pooler") + len("pooler")] for name in inside if "pooler" in name}
    missing = [name for name in inside if "pooler" not in name]
    if missing:
        raise UserError(
            f"the checkpoint {model.name_or_path} has no weights for {len(missing)} parameters of "
            f"{type(model).__name__}, e.g. {missing[0]}: it is not of this architecture"
        )
    return head + sorted(poolers)


def outside_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear maps that are in no layer: pooler, head, projections."""
    return [name for name in _linear_names(model) if not _in_layers(name)]


def outputs_of_maps(model: PreTrainedModel, names: Sequence[str]) -> dict[str, int]:
    """Return how many numbers each of these linear maps puts out."""
    from transformers.pytorch_utils import Conv1D

    maps: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    return {
        name: part.nf if isinstance(part, Conv1D) else part.out_features
        for name, part in maps.items()
    }


def _linear_names(model: PreTrainedModel) -> list[str]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _ending(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _in_layers(name: str) -> bool:
    """Tell whether a module is inside a stack of layers: its name has a number in it."""
    return any(part.isdecimal() for part in name.split("."))


def _nothing(model: str, what: str, names: list[str]) -> list[str]:
    # "encoder.layer.3.attention.self.query" -> "attention.self.query": the same in every layer
    endings: dict[str, None] = {}
    for name in filter(_in_layers, names):
        parts = name.split(".")
        last = max(i for i, part in enumerate(parts) if part.isdecimal())
        endings[".".join(parts[last + 1 :])] = None
    raise UserError(
        f"{what} matches no linear layer of {model}: allowed are "
        f"qv | all | a list of module names, here of {', '.join(endings) or ', '.join(names)}"
    )
