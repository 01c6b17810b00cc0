"""Batches of data that can only be read from the beginning: the same order, positions and ranks."""

import numpy as np
import pytest

from bilevel.data import ResumableLoader
from bilevel.errors import UserError
from bilevel.streams import Streamed, StreamedLoader, buffer_order


class Source:
    """Counts how often it is begun, and how many wait at the most."""

    def __init__(self, size, buffer):
        self.size, self.left, self.buffer, self.begun = size, size, buffer, 0

    def __len__(self):
        return self.size

    def read(self):
        self.begun += 1
        return iter(range(100, 100 + self.left))

    def prepared(self, found):
        return [item * 10 for item in found]


def loader(size=50, buffer=8, batch_size=4, **options):
    return StreamedLoader(Source(size, buffer), batch_size, list, seed=3, **options)


def test_a_source_is_a_stream_and_a_list_is_none():
    assert isinstance(Source(3, 2), Streamed)
    assert not isinstance([1, 2], Streamed)


@pytest.mark.parametrize(("size", "buffer"), [(50, 8), (50, 1), (8, 50), (9, 8)])
def test_a_buffer_hands_out_each_item_once_and_none_before_its_time(size, buffer):
    order = buffer_order(np.arange(size), buffer, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(size))
    assert all(item < place + buffer for place, item in enumerate(order.tolist()))


def test_a_buffer_shuffles():
    draws = np.array(
        [buffer_order(np.arange(40), 10, np.random.default_rng(seed)) for seed in range(400)]
    )
    # The first place is uniform over the first 10: each 40 times, standard deviation 6.
    counts = np.bincount(draws[:, 0], minlength=40)
    assert not counts[10:].any()
    assert np.abs(counts[:10] - 40).max() < 24
    assert buffer_order(np.arange(40), 1, np.random.default_rng(0)).tolist() == list(range(40))


def test_a_buffer_of_all_is_the_order_of_data_in_memory():
    plain = ResumableLoader([(100 + i) * 10 for i in range(50)], 4, list, seed=3)
    streamed = loader(buffer=50)
    for _ in range(3):
        assert list(streamed) == list(plain)


def test_an_epoch_reads_the_source_once():
    streamed = loader()
    first, second = list(streamed), list(streamed)
    assert streamed.dataset.begun == 2
    assert first != second
    assert streamed.seen == 96  # of 2 epochs of 12 whole batches


def test_it_goes_on_from_every_position():
    whole = loader()
    batches = [batch for _ in range(2) for batch in whole]
    for done in range(len(batches)):
        before = loader()
        for _ in range(done):
            next(iter(before))
        after = loader()
        after.load_state_dict(before.state_dict())
        rest = [next(iter(after)) for _ in range(len(batches) - done)]
        assert rest == batches[done:]


def test_a_state_loaded_meanwhile_is_honoured():
    one, other = loader(), loader()
    start = one.state_dict()
    found = [next(iter(one)) for _ in range(5)]
    one.load_state_dict(start)
    assert [next(iter(one)) for _ in range(5)] == found
    assert [next(iter(other)) for _ in range(5)] == found


def test_ranks_share_the_batches_of_one():
    whole, ranks = loader(), [loader(rank=rank, world_size=2) for rank in range(2)]
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert first == batch[::2]
        assert second == batch[1::2]


@pytest.mark.parametrize("options", [{"lengths": [1] * 50}, {"weights": [1.0] * 50}])
def test_what_needs_all_at_once_is_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        loader(**options)


def test_a_source_that_becomes_shorter_is_refused():
    streamed = loader()
    streamed.dataset.left = 20
    with pytest.raises(UserError, match="fewer"):
        list(streamed)
