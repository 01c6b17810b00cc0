"""Device choice, and averages over two gloo processes against values computed by one."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from bilevel import distributed
from bilevel.distributed import World
from bilevel.errors import UserError

WORKER = textwrap.dedent(
    """
    import os, sys
    import torch, torch.distributed as dist
    from bilevel import distributed

    world = distributed.setup(sys.argv[1])
    assert (world.rank, world.world_size) == (int(os.environ["RANK"]), 2), world
    assert world.device == torch.device("cpu") and dist.get_backend() == "gloo"
    assert world.joined and world.world_size == 2

    def made_by(rank):
        g = torch.Generator().manual_seed(rank)
        shapes = [(3, 4), (), (5,), (2, 2, 2)]
        dtypes = [torch.float32, torch.float64, torch.float32, torch.float64]
        return [torch.randn(s, generator=g, dtype=d) for s, d in zip(shapes, dtypes)]

    expected = [(a + b) / 2 for a, b in zip(made_by(0), made_by(1))]
    for limit in (1, 40, 2**27):  # a bucket a tensor; several; all in one
        distributed._BUCKET_BYTES = limit
        mine = made_by(world.rank)
        kept = list(mine)
        distributed.average(mine, world)
        assert all(torch.equal(a, b) for a, b in zip(mine, expected)), limit
        assert all(a is b for a, b in zip(mine, kept))

    # Leaves that require a gradient, transposed storage, and read-only results of autograd.
    leaf = torch.full((2, 3), float(world.rank), requires_grad=True)
    turned = torch.arange(6.0).view(2, 3).t() * (world.rank + 1)
    expanded = torch.ones(()).expand(4) * 1 if world.rank else torch.ones(()).expand(4)
    distributed.average([leaf, turned], world)
    assert leaf.eq(0.5).all() and torch.equal(turned, torch.arange(6.0).view(2, 3).t() * 1.5)
    (mean,) = distributed.averaged([expanded], world)
    assert torch.equal(mean, torch.ones(4)) and torch.equal(expanded, torch.ones(4))
    distributed.average([], world)

    # Two halves of a batch, averaged, are the gradient of the whole batch.
    g = torch.Generator().manual_seed(3)
    x = torch.randn(8, 5, generator=g, dtype=torch.float64)
    w = torch.randn(5, generator=g, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad((x @ w).pow(2).mean(), w)
    (half,) = torch.autograd.grad((x[world.rank :: 2] @ w).pow(2).mean(), w)
    assert not torch.allclose(half, whole)
    distributed.average([half], world)
    assert torch.allclose(half, whole, rtol=1e-12)

    fraction = torch.rand(2) + world.rank
    values = [torch.full((3,), world.rank), torch.tensor(world.rank == 0), fraction]
    distributed.broadcast(values, world)
    assert values[0].eq(0).all() and values[1] and values[2].lt(1).all()
    distributed.broadcast(values[:1], world, source=1)
    both = [torch.zeros(3, dtype=torch.long) for _ in range(2)]
    dist.all_gather(both, values[0])
    assert torch.equal(*both)

    distributed.cleanup(world)
    assert not dist.is_initialized()
    print("all good on rank", world.rank)
    """
)


def run_two(arguments, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [p.communicate(timeout=120)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode == 0, output
        assert f"all good on rank {rank}" in output


@pytest.mark.parametrize("strategy", ["distributed", "accelerate"])
def test_two_processes(strategy, tmp_path):
    run_two([strategy], tmp_path)


def test_one_process_is_left_alone():
    world = World()
    tensor, expanded = torch.ones(3), torch.ones(()).expand(2)
    distributed.average([tensor, expanded], world)
    distributed.broadcast([tensor], world)
    assert torch.equal(tensor, torch.ones(3))
    assert distributed.averaged([expanded], world)[0].shape == (2,)
    distributed.cleanup(world)
    assert world.rank == 0


def test_cpu_and_default_device(monkeypatch):
    assert distributed.setup("cpu") == World(device=torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.setup("default").device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert distributed.setup("default").device == torch.device("cuda", 1)
    assert distributed.setup("gpu").device == torch.device("cuda", 1)
    assert distributed.setup("cpu").device == torch.device("cpu")


def test_accelerate_alone_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = distributed.setup("accelerate")
    assert (world.rank, world.world_size, world.joined) == (0, 1, False)


@pytest.mark.parametrize(
    ("strategy", "backend", "words"),
    [
        ("fsdp", "auto", "'fsdp' is not supported.*strategy=distributed"),
        ("zero", "auto", "'zero' is not supported"),
        ("ddp", "auto", "'ddp'.*default, cpu, gpu, distributed, accelerate"),
        ("gpu", "auto", "no CUDA or MPS"),
        ("distributed", "auto", "RANK.*torchrun"),
        ("default", "mpi", "'mpi'.*auto, gloo, nccl"),
    ],
)
def test_what_cannot_be_is_said(monkeypatch, strategy, backend, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=words):
        distributed.setup(strategy, backend)


def test_nccl_needs_a_gpu_and_gpus_are_not_shared_silently(monkeypatch):
    values = {
        "RANK": "2",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="backend=nccl"):
        distributed.setup("distributed", "nccl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"process 2 .* no GPU of its own"):
        distributed.setup("distributed")
