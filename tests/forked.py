"""Do something on several gloo processes that are forked from this one."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["fork", "free_port", "on"]


def on(processes: int, part: Callable[[], Any], timeout: float = 120) -> list[Any]:
    """What ``part`` returns on each of several processes, in their order; plain values."""
    port = free_port()
    context = multiprocessing.get_context("fork")  # importing everything again takes too long
    queue = context.Queue()
    forked = [
        context.Process(target=_worker, args=(rank, processes, port, part, queue))
        for rank in range(processes)
    ]
    for process in forked:
        process.start()
    try:
        found: dict[int, Any] = {}
        for _ in forked:
            rank, value, error = queue.get(timeout=timeout)
            assert error is None, error
            found[rank] = value
    finally:
        for process in forked:
            process.kill()
            process.join()
    return [found[rank] for rank in range(processes)]


def fork(rank: int, processes: int, port: int, part: Callable[[], Any]) -> Any:
    """One of several processes, at work on ``part``; its errors end it."""
    context = multiprocessing.get_context("fork")
    one = context.Process(target=_alone, args=(rank, processes, port, part))
    one.start()
    return one


def free_port() -> int:
    """For the processes' rendezvous."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _alone(rank: int, processes: int, port: int, part: Callable[[], Any]) -> None:
    _launched(rank, processes, port)
    part()


def _launched(rank: int, processes: int, port: int) -> None:
    """Say what a launcher says."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _worker(rank: int, processes: int, port: int, part: Callable[[], Any], queue: Any) -> None:
    _launched(rank, processes, port)
    try:
        queue.put((rank, part(), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
