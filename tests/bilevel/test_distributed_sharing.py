"""Work, objects and decisions that several processes share."""

import pytest
import torch

from bilevel import distributed
from bilevel.distributed import PeerLostError, World
from tests.forked import on

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and is about CPUs")


def test_work_is_done_once_and_comes_in_order():
    def part():
        world = distributed.setup()  # by the environment alone
        done = []

        def double(item):
            done.append(item)
            return 2 * item

        every = distributed.each_once(range(7), double)
        flags = distributed.any_of(world.rank == 2, world), distributed.any_of(False, world)
        first = distributed.from_first({"rank": world.rank}, world)
        told = distributed.first_to("tell", f"word {world.rank}")
        distributed.any_of(False, world)
        words = distributed.first_to("tell", claim=False)
        return every, done, flags, first, distributed.gathered(world.rank, world), told[0], words

    found = on(3, part)
    assert [f[0] for f in found] == [[0, 2, 4, 6, 8, 10, 12]] * 3
    assert [f[1] for f in found] == [[0, 3, 6], [1, 4], [2, 5]]
    assert all(f[2:5] == ((True, False), {"rank": 0}, [0, 1, 2]) for f in found)
    claimed = [f[5] for f in found]
    assert claimed.count(True) == 1
    assert {f[6] for f in found} == {(False, f"word {claimed.index(True)}")}


def test_alone_nothing_is_sent():
    world = World()
    assert distributed.current() == world
    assert distributed.each_once([1, 2], str) == ["1", "2"]
    assert distributed.gathered("a", world) == ["a"]
    assert distributed.from_first("a", world) == "a"
    assert distributed.any_of(True, world)
    assert distributed.first_to("tell") == (True, "")


def test_a_process_that_is_gone_is_told():
    def part():
        world = distributed.setup()
        if world.rank == 1:
            return "gone"
        with pytest.raises(PeerLostError):
            distributed.any_of(False, world)
        return "told"

    assert on(2, part) == ["told", "gone"]
