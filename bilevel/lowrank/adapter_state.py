"""Take the trained tensors of an adapter off a model, and put them on another one of its kind."""

from __future__ import annotations

from collections.abc import Mapping

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

__all__ = ["adapter_state", "put_adapter_state"]


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """Copies of all that PEFT saves of the adapter, heads included, on the CPU, by PEFT's names."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def put_adapter_state(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Give a model the adapter that :func:`adapter_state` took off one with the same layers.

    Raises:
        LookupError: the two have other layers.
    """
    needed = get_peft_model_state_dict(model, save_embedding_layers=False)
    strange = sorted(needed.keys() ^ state.keys())
    if strange:
        raise LookupError(f"{strange[0]} is in one of the two adapters only")
    set_peft_model_state_dict(model, dict(state))
