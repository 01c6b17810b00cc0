"""What is no longer used goes back to the system."""

import gc
import sys
import weakref

import psutil
import pytest
import torch

from experiments.training.freed_memory import give_back


class Knot:
    """An object that only a circle holds."""

    def __init__(self):
        self.me = self


def test_circles_are_collected():
    gc.disable()
    try:
        knot = weakref.ref(Knot())
        assert knot() is not None
        give_back()
        assert knot() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be asked")
def test_freed_blocks_leave_the_process():
    """Blocks of 64 KiB come from the heap, whose top the last one holds."""
    blocks = [torch.ones(1 << 14) for _ in range(1600)]  # 100 MiB
    last = torch.ones(1 << 14)
    del blocks
    before = psutil.Process().memory_info().rss
    give_back()
    assert before - psutil.Process().memory_info().rss > 50 * 2**20
    assert last.sum() == 1 << 14
