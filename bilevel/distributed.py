"""Join several processes, choose the device, and average over ranks where it is asked for.

Modules are not wrapped in DistributedDataParallel: its hooks fire in every backward, also in the
second-order passes of a hypergradient, where averaging would be wrong or done twice. Gradients and
second-order products are averaged where the engine says so instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bilevel import launcher
from bilevel.errors import UserError

__all__ = [
    "STRATEGIES",
    "PeerLostError",
    "World",
    "any_of",
    "average",
    "averaged",
    "broadcast",
    "cleanup",
    "current",
    "each_once",
    "first_to",
    "from_first",
    "gathered",
    "mean_of",
    "setup",
]

T = TypeVar("T")
R = TypeVar("R")

STRATEGIES = ("default", "cpu", "gpu", "distributed", "accelerate")
# How long the processes wait for each other at the start: nodes do not boot at once.
JOIN = timedelta(minutes=30)
# One collective carries at most this much, so that the buffer of a large model stays small.
_BUCKET_BYTES = 128 * 2**20
# What the backends say when a process at the other end is gone, or does not come.
_LOST = re.compile(r"clos|reset|broken pipe|timed? ?out|connect|abort|peer|remote", re.IGNORECASE)


class PeerLostError(UserError):
    """Another process of the run has ended, and nothing can be computed together any more."""


@dataclass(frozen=True)
class World:
    """Which of ``world_size`` processes this one is, and its device."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    joined: bool = False  # whether setup() made the process group, and cleanup() must end it
    # Whether each pass gathers a base that is shared out: then all ranks take the same passes.
    shards_base: bool = False


def setup(strategy: str = "default", backend: str = "auto") -> World:
    """Choose the device, and join the other processes where there are some.

    ``default`` is the GPU if there is one, CUDA's before Apple's (MPS), else the CPU; several
    processes on a Mac compute on its CPU. A launcher's environment (``torchrun``, ``accelerate
    launch``) with several processes is followed; ``distributed`` insists on one. ``accelerate``
    leaves it to that library. ``backend=auto`` is nccl on GPUs and gloo on CPUs.
    Raises :class:`UserError` for an unknown strategy or backend, or hardware that is not there.
    """
    cuda = torch.cuda.is_available()
    if strategy in ("zero", "fsdp"):
        raise UserError(
            f"strategy {strategy!r} is not supported: what is trained is whole on every rank; use "
            "strategy=distributed, with shard=base for a frozen base that does not fit"
        )
    if strategy not in STRATEGIES:
        raise UserError(f"unknown strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if backend not in ("auto", "gloo", "nccl"):
        raise UserError(f"unknown backend {backend!r}: choose one of auto, gloo, nccl")
    apple = not cuda and torch.backends.mps.is_available()
    if strategy == "gpu" and not (cuda or apple):
        raise UserError("strategy=gpu, but PyTorch sees no CUDA or MPS device: use strategy=cpu")
    if strategy == "accelerate":
        return _join_accelerate()
    if strategy == "distributed" or launcher.processes() > 1:
        return _join(backend, cuda and strategy != "cpu")
    if strategy == "cpu" or not (cuda or apple):
        return World()
    return World(device=_MPS if apple else torch.device("cuda", torch.cuda.current_device()))


def cleanup(world: World) -> None:
    """Leave the process group if :func:`setup` made it."""
    if world.joined and dist.is_initialized():
        dist.destroy_process_group()
        _store.clear()


def current() -> World:
    """The processes that have been joined; one process by itself where none have.

    Its ``device`` is the CPU: where a model computes is for the model to say.
    """
    if not dist.is_initialized():
        return World()
    return World(dist.get_rank(), int(os.environ.get("LOCAL_RANK", 0)), dist.get_world_size())


def gathered(value: T, world: World) -> list[T]:
    """``value`` of every rank, in their order, on each of them. Anything that can be pickled.

    Raises:
        PeerLostError: another process has ended.
    """
    if world.world_size == 1:
        return [value]
    found: list[Any] = [None] * world.world_size
    with _together():
        dist.all_gather_object(found, value)
    return found


def from_first(value: T, world: World) -> T:
    """``value`` of rank 0, on every rank.

    Raises:
        PeerLostError: another process has ended.
    """
    if world.world_size == 1:
        return value
    found: list[Any] = [value if world.rank == 0 else None]
    with _together():
        dist.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[no-any-return]


def any_of(flag: bool, world: World) -> bool:
    """Whether ``flag`` is set on any rank.

    Raises:
        PeerLostError: another process has ended.
    """
    if world.world_size == 1:
        return flag
    on_cpu = "gloo" in str(dist.get_backend_config())  # else looking at it waits for the GPU
    found = torch.tensor(int(flag), device=_CPU if on_cpu else world.device)
    with _together():
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())


def each_once(items: Iterable[T], work: Callable[[T], R], together: bool = False) -> list[R]:
    """``work`` of every item, in order: each of W processes does every W-th, and all get all.

    All of them must come here, with the same items.

    Args:
        items: what there is to do.
        work: its result must be picklable, and lie on the CPU.
        together: all do equally many, the last one over again where it does not come out even: a
            pass through a base that is shared out is one of all processes.

    Raises:
        PeerLostError: another process has ended.
    """
    world, every = current(), list(items)
    mine = every[world.rank :: world.world_size]
    if together and len(mine) < -(-len(every) // world.world_size):
        mine.append(every[-1])
    parts = gathered([work(item) for item in mine], world)
    return [parts[i % world.world_size][i // world.world_size] for i in range(len(every))]


def first_to(what: str, said: str = "", claim: bool = True) -> tuple[bool, str]:
    """Whether this process is the first of all to do something, and what the first has said.

    For a process that ends by an error: it waits for nobody.

    Args:
        what: a name of it.
        said: for the others to read, if this is the first.
        claim: be it; without, only look.

    Returns:
        Whether nobody has been before, and the words of whoever was.
    """
    store = _store.get("store")
    if store is None:
        return True, ""
    try:
        if not claim:
            there = store.check([f"{what}/said"])
            return not there, store.get(f"{what}/said").decode() if there else ""
        if store.add(f"{what}/count", 1) == 1:
            store.set(f"{what}/said", said)
            return True, said
        return False, ""
    except RuntimeError:  # whoever keeps the store is gone, and has told why
        return False, ""


@contextmanager
def _together() -> Iterator[None]:
    """Turn what a backend says of a process that is gone into :class:`PeerLostError`."""
    try:
        yield
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise PeerLostError(
            "another process of this run has ended, which ends this one too"
        ) from error


def average(tensors: Sequence[Tensor], world: World) -> None:
    """Replace each tensor by its mean over ranks, in place.

    All ranks must give the same shapes in the same order (zeros where one has nothing to add), and
    all end with the same bits. Nothing happens with one rank.
    """
    _collect(tensors, world, _mean(world), write_back=True)


def averaged(tensors: Sequence[Tensor], world: World) -> list[Tensor]:
    """Like :func:`average`, but leaves the tensors alone and returns the means, detached.

    For results of autograd, which may be read-only views of one number (``expand``).
    """
    return _collect(tensors, world, _mean(world), write_back=False)


def mean_of(value: float, world: World) -> Tensor:
    """Mean of a number over ranks, on the device, so that nobody waits for it."""
    # Filled there, not copied there.
    number = torch.full((), value, dtype=torch.float64, device=world.device)
    (mean,) = averaged([number], world)
    return mean


def broadcast(tensors: Sequence[Tensor], world: World, source: int = 0) -> None:
    """Overwrite each tensor with that of rank ``source``, in place. Any dtype."""
    _collect(tensors, world, lambda flat: dist.broadcast(flat, source), write_back=True)


_CPU, _MPS = torch.device("cpu"), torch.device("mps")
_store: dict[str, dist.Store] = {}  # where processes leave word for each other, once joined


def _mean(world: World) -> Callable[[Tensor], None]:
    def reduce(flat: Tensor) -> None:
        # A sum and one division: gloo knows no average, and both backends then give the same bits.
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        flat.div_(world.world_size)

    return reduce


@torch.no_grad()
def _collect(
    tensors: Sequence[Tensor], world: World, collective: Callable, write_back: bool
) -> list[Tensor]:
    results = list(tensors)
    if world.world_size == 1:
        return [t.detach() for t in results]
    for members in _buckets(results):
        pieces = [results[i] for i in members]
        flat = torch.cat([p.detach().reshape(-1) for p in pieces])
        with _together():
            collective(flat)
        views = flat.split([p.numel() for p in pieces])
        for i, piece, view in zip(members, pieces, views, strict=True):
            if write_back:
                piece.copy_(view.view(piece.shape))
            results[i] = view.view(piece.shape)
    return results


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices that travel together: one dtype, one device, at most _BUCKET_BYTES or one tensor."""
    filling: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    filled: dict[tuple[torch.dtype, torch.device], int] = {}
    for i, tensor in enumerate(tensors):
        kind, size = (tensor.dtype, tensor.device), tensor.numel() * tensor.element_size()
        if kind in filling and filled[kind] + size > _BUCKET_BYTES:
            yield filling.pop(kind)
            filled[kind] = 0
        filling.setdefault(kind, []).append(i)
        filled[kind] = filled.get(kind, 0) + size
    yield from filling.values()


def _join(backend: str, cuda: bool) -> World:
    missing = launcher.missing()
    if missing and not dist.is_initialized():
        raise UserError(
            f"strategy=distributed, but {', '.join(missing)} is not in the environment: start the "
            "program with torchrun --nproc-per-node=N, or use strategy=default"
        )
    if backend == "nccl" and not cuda:
        raise UserError("backend=nccl, but PyTorch sees no CUDA device: use backend=gloo or auto")
    joined = not dist.is_initialized()
    rank = int(os.environ["RANK"]) if joined else dist.get_rank()
    gpus = torch.cuda.device_count() if cuda else 0
    local_rank = int(os.environ.get("LOCAL_RANK", rank % max(gpus, 1)))
    device = _CPU
    if gpus:
        if local_rank >= gpus and backend != "gloo":
            raise UserError(
                f"process {local_rank} of this machine has no GPU of its own (there are {gpus}): "
                f"start at most {gpus} processes a machine, or use backend=gloo to share"
            )
        device = torch.device("cuda", local_rank % gpus)
        torch.cuda.set_device(device)
    if joined:
        # Beside nccl, gloo carries what lies on the CPU: objects, and whether all go on.
        chosen = backend if backend != "auto" else ("cpu:gloo,cuda:nccl" if gpus else "gloo")
        with _together():
            store, rank, size = next(dist.rendezvous("env://"))
            store.set_timeout(JOIN)
            dist.init_process_group(
                chosen, store=dist.PrefixStore("group", store), rank=rank, world_size=size
            )
        _store["store"] = dist.PrefixStore("words", store)
    return World(dist.get_rank(), local_rank, dist.get_world_size(), device, joined)


def _join_accelerate() -> World:
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # Accelerate sees several processes without an accelerator only when told to stay on the CPU.
    cpu = several and not torch.accelerator.is_available()
    joined = not dist.is_initialized()
    state = PartialState(cpu=cpu or bool(parse_flag_from_env("ACCELERATE_USE_CPU")))
    if several and state.num_processes == 1:
        raise UserError(
            f"strategy=accelerate runs one process on {state.device} although WORLD_SIZE is "
            f"{os.environ['WORLD_SIZE']}: start it with accelerate launch, or use "
            "strategy=distributed with torchrun"
        )
    return World(
        state.process_index,
        state.local_process_index,
        state.num_processes,
        _CPU if state.device.type == "cpu" else state.device,  # Accelerate says cpu:0
        joined and dist.is_initialized(),
    )
