"""Share out a frozen base over the processes that train beside it, by torch's FSDP2.

Each of N processes keeps the N-th part of every frozen weight in a transformer's blocks and
embeddings. A block is gathered just before it computes, forward and again backward, and let go
after. What is trained stays whole everywhere: the optimisers, the estimators, checkpoints and
exports see plain parameters, and gradients are averaged as without sharding. So does the little
that is in no block (a last norm, positions), which may be read without a call.

A pass is then one of all processes together: each has to take the same passes in the same order,
:attr:`bilevel.distributed.World.shards_base`. Double backward is not to be had: FSDP2 has let the
gathered weights go by then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from bilevel.errors import UserError

if TYPE_CHECKING:
    from bilevel.distributed import World

__all__ = [
    "OLDEST_TORCH",
    "check_processes",
    "device_of",
    "frozen_base",
    "groups",
    "is_sharded",
    "place",
    "shard_base",
]

OLDEST_TORCH = (2, 7)  # whose fully_shard can leave parameters alone


def place(module: nn.Module, device: torch.device | str, world: World) -> None:
    """Move a level's module to the device, or its part of the base where that is shared out."""
    if world.shards_base and frozen_base(module):
        shard_base(module, world, world.offloads)
    else:
        module.to(device)


def shard_base(module: nn.Module, world: World, offload: bool = False) -> None:
    """Keep this process's part of the frozen weights of ``module``, in place; once.

    Weights go to ``world.device`` group by group, so that it never holds the whole.

    Args:
        module: with adapters and heads already in it; what requires a gradient stays whole.
        world: the processes, which all have to come here, with equal weights.
        offload: keep the parts in the CPU's memory, and only what is gathered on the GPU.

    Raises:
        UserError: there is one process only, torch is too old, there are no blocks with frozen
            weights, or these are packed (quantised).
    """
    if is_sharded(module):
        return
    check_processes(world)
    base = frozen_base(module)
    if not base:
        raise UserError(
            "shard=base shares out the frozen weights of a model's blocks, and "
            f"{type(module).__name__} has none: leave it at null"
        )
    packed = [name for name, p in base.items() if not p.is_floating_point()]
    if packed:
        raise UserError(
            f"shard=base cannot share out packed weights ({packed[0]}): load the base without "
            "quantisation"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    ids = {id(p) for p in base.values()}
    options: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.world_size,)),
        "ignored_params": {p for p in module.parameters() if id(p) not in ids},
        "offload_policy": CPUOffloadPolicy(pin_memory=world.device.type == "cuda")
        if offload
        else OffloadPolicy(),
        "reshard_after_forward": True,
    }
    root = _root(module)
    for p in base.values():
        p.data = p.data.contiguous()
    for group in groups(module):
        fully_shard(group, **options)
    fully_shard(root, **options)
    # FSDP2 takes whatever is called first for the root. A part may be called before the whole
    # (PEFT's prompts), or the whole by its forward(), past the hooks (PEFT's AdaLoRA).
    cast(Any, root)._get_fsdp_state()._lazy_init()
    _move_rest(module, world.device)


def check_processes(world: World) -> None:
    """Refuse to share out a base where that cannot be.

    Raises:
        UserError: there is one process only, or torch is too old.
    """
    if world.world_size == 1:
        raise UserError(
            "shard=base shares the base out over processes, and there is one: start several with "
            "torchrun --nproc-per-node=N, or leave it at null"
        )
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        needed = ".".join(map(str, OLDEST_TORCH))
        raise UserError(
            f"shard=base needs torch {needed} or newer, and this is {torch.__version__}"
        )


def device_of(module: nn.Module) -> torch.device:
    """Where ``module`` computes: where its first parameter lies that is whole.

    Parts of an offloaded base lie in the CPU's memory and compute elsewhere. With parts alone, or
    nothing shared out, it is where the first parameter lies.
    """
    whole = (p for p in module.parameters() if not _is_part(p))
    found = next(whole, None)
    return (next(module.parameters()) if found is None else found).device


def is_sharded(module: nn.Module) -> bool:
    """Whether a part of ``module`` has been through :func:`shard_base`."""
    if "torch.distributed.fsdp" not in sys.modules:  # whose import is not for nothing
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())


def frozen_base(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are shared out, by name: frozen ones of :func:`groups`, but for adapters.

    An adapter's own parameters are small, and may be frozen for a while only; so is the original
    of a head that is trained as a copy, which no pass needs.
    """
    inside = {id(p) for group in groups(module) for member in group for p in member.parameters()}
    able = _shareable(module) & inside
    return {name: p for name, p in module.named_parameters() if id(p) in able}


def groups(module: nn.Module) -> list[list[nn.Module]]:
    """Modules that are gathered together.

    One group for each member of the outermost lists of modules (a transformer's blocks), for the
    input and output embeddings (one where they share weights).
    """
    base = _shareable(module)
    root = _root(module)
    found = [[block] for block in dict.fromkeys(_blocks(root))]
    taken = {id(part) for group in found for member in group for part in member.modules()}
    found += [
        group
        for group in _embeddings(root)
        if not any(id(part) in taken for member in group for part in member.modules())
    ]
    held = [group for group in found if any(id(p) in base for m in group for p in m.parameters())]
    _check_tied(held, base, root)
    return held


def _originals(module: nn.Module) -> set[int]:
    """Identities of the parameters of heads whose trained copy computes in their place."""
    from peft.utils import AuxiliaryTrainingWrapper

    found: set[int] = set()
    for wrapper in module.modules():
        if isinstance(wrapper, AuxiliaryTrainingWrapper):
            inside = set(wrapper.original_module.modules())
            elsewhere = (m for m in module.modules() if m not in inside)
            shared = {id(p) for m in elsewhere for p in m._parameters.values()}
            found |= {id(p) for p in wrapper.original_module.parameters()} - shared
    return found


def _check_tied(found: Sequence[list[nn.Module]], base: set[int], root: nn.Module) -> None:
    """Raise UserError if two groups, of which none is a part of the other, share a weight."""
    parts = [{part for member in group for part in member.modules()} for group in found]
    weights = [{id(p) for member in g for p in member.parameters()} & base for g in found]
    for place, mine in enumerate(parts):
        for other in range(place):
            apart = not (mine <= parts[other] or parts[other] <= mine)
            if apart and weights[place] & weights[other]:
                raise UserError(
                    f"shard=base gathers the blocks of {type(root).__name__} one after the other, "
                    "and some of them share weights: leave it at null"
                )


def _root(module: nn.Module) -> nn.Module:
    """The module whose call starts a pass: a transformers model may be called inside of another
    (PEFT's, for generation)."""
    from transformers import PreTrainedModel

    return next((m for m in module.modules() if isinstance(m, PreTrainedModel)), module)


def _shareable(module: nn.Module) -> set[int]:
    """Identities of the frozen parameters that belong to no adapter."""
    adapters = _adapter_parameters(module) | _originals(module)
    frozen = (p for p in module.parameters() if not p.requires_grad and p.dim() > 0)
    return {id(p) for p in frozen} - adapters


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _embeddings(root: nn.Module) -> list[list[nn.Module]]:
    """Input and output embeddings of a transformers model; of any other module, none."""
    from transformers import PreTrainedModel

    if not isinstance(root, PreTrainedModel):
        return []
    wrapped = _base_layers(root)
    found: list[list[nn.Module]] = []
    for embedding in (root.get_input_embeddings(), root.get_output_embeddings()):
        if embedding is None or any(embedding in group for group in found):
            continue
        own = {id(p) for p in embedding.parameters()}
        sharing = [m for m in root.modules() if own & {id(p) for p in m._parameters.values()}]
        # A layer with an adapter may read its base layer's weights without calling it.
        members = list(dict.fromkeys(wrapped.get(id(m), m) for m in sharing))
        if members and members not in found:
            found.append(members)
    return found


def _base_layers(module: nn.Module) -> dict[int, nn.Module]:
    """PEFT's layers by the identity of what each wraps."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
    return {id(layer.get_base_layer()): layer for layer in layers}


def _adapter_parameters(module: nn.Module) -> set[int]:
    """Identities of the parameters that PEFT's layers have beside what they wrap."""
    found: set[int] = set()
    for layer in _base_layers(module).values():
        inside = {id(p) for p in cast(Any, layer).get_base_layer().parameters()}
        found |= {id(p) for p in layer.parameters()} - inside
    return found


def _is_part(tensor: torch.Tensor) -> bool:
    """Whether a tensor is this process's part of one that is shared out."""
    if "torch.distributed.tensor" not in sys.modules:  # whose import is not for nothing
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _move_rest(module: nn.Module, device: torch.device) -> None:
    """Move what fully_shard leaves alone: whole parameters, and buffers outside of the root."""
    from torch.distributed.tensor import DTensor

    for part in module.modules():
        tensors: Iterable[torch.Tensor | None] = [
            *part._parameters.values(),
            *part._buffers.values(),
        ]
        for tensor in tensors:
            if tensor is not None and not isinstance(tensor, DTensor) and tensor.device != device:
                tensor.data = tensor.data.to(device)
