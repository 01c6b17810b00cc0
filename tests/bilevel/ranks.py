"""Run a function in several gloo processes at once, and get what each returns."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback

import torch
from accelerate.state import AcceleratorState


def of_each(function, *arguments, ranks=2, seconds=120):
    """``function(*arguments)`` of each rank, in order; its tensors come back as they are.

    The processes are forked: importing everything again takes too long.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_worker, args=(rank, ranks, port, queue, function, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        results = {}
        for _ in processes:
            rank, result, error = queue.get(timeout=seconds)
            assert error is None, error
            results[rank] = _map(torch.from_numpy, result, "ndarray")
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [results[rank] for rank in range(ranks)]


def _worker(rank, ranks, port, queue, function, arguments):
    try:
        # What earlier tests left in the process that this one was forked from.
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        # NumPy arrays: tensors would travel through shared memory that dies with the process.
        result = _map(lambda t: t.detach().numpy(), function(*arguments), "Tensor")
        queue.put((rank, result, None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))


def _map(change, value, kind):
    if type(value).__name__ == kind:
        return change(value)
    if isinstance(value, dict):
        return {key: _map(change, item, kind) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map(change, item, kind) for item in value]
    return value
