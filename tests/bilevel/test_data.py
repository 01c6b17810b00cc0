"""Splits, orders and loaders: decided by seeds alone, complete, and resumed from any position."""

import numpy as np
import pytest
import torch

from bilevel.data import ResumableLoader, split, stratified_order
from bilevel.errors import UserError


def loader(n=23, batch_size=4, **options):
    return ResumableLoader(list(range(100, 100 + n)), batch_size, list, **options)


def epoch_of(a_loader):
    return list(a_loader)


def test_split_is_disjoint_complete_and_seeded():
    first, second = split(101, 0.7, seed=3)
    assert len(first) == 71
    assert sorted(first + second) == list(range(101))
    assert split(101, 0.7, seed=3) == (first, second)
    assert split(101, 0.7, seed=4)[0] != first


@pytest.mark.parametrize("seed", range(5))
def test_split_keeps_class_proportions(seed):
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    first, second = split(100, 0.5, seed, labels)
    for side in (first, second):
        counts = [sum(labels[i] == c for i in side) for c in "abc"]
        assert np.abs(np.array(counts) - [30, 15, 5]).max() <= 1


def test_split_accepts_a_class_with_one_member():
    labels = [0] * 9 + [1]
    first, second = split(10, 0.5, 0, labels)
    assert sorted(first + second) == list(range(10))


@pytest.mark.parametrize("m", [10, 37, 80])
def test_every_prefix_of_the_stratified_order_has_the_proportions(m):
    labels = [0] * 75 + [1] * 25
    order = stratified_order(100, 0, labels)
    assert sorted(order) == list(range(100))
    assert abs(sum(labels[i] for i in order[:m]) - m / 4) <= 1.5


@pytest.mark.parametrize(
    ("n", "fraction"), [(1, 0.5), (10, 0.01), (10, 0.99), (10, 0.0), (10, 1.0)]
)
def test_split_refuses_an_empty_side(n, fraction):
    with pytest.raises(UserError):
        split(n, fraction, 0)


def test_an_epoch_has_full_batches_without_repeats():
    a = loader()
    batches = epoch_of(a)
    assert len(batches) == len(a) == 5
    assert all(len(batch) == 4 for batch in batches)
    seen = [x for batch in batches for x in batch]
    assert len(set(seen)) == 20
    assert a.epoch == 1


def test_the_incomplete_batch_is_kept_when_asked():
    batches = epoch_of(loader(drop_last=False))
    assert sorted(x for batch in batches for x in batch) == list(range(100, 123))
    assert len(batches) == 6


def test_order_depends_on_seed_and_epoch_only():
    a, b, c = loader(seed=1), loader(seed=1), loader(seed=2)
    first, second = epoch_of(a), epoch_of(a)
    assert first != second
    b.epoch = 1
    assert epoch_of(b) == second
    assert epoch_of(c) != first


def test_without_shuffle_the_order_is_the_data_sets():
    assert epoch_of(loader(n=6, batch_size=3, shuffle=False)) == [[100, 101, 102], [103, 104, 105]]


def test_indices_restrict_and_last_indices_are_those_of_the_data_set():
    a = loader(n=10, batch_size=2, indices=[1, 4, 6, 7])
    for batch in a:
        assert a.last_indices is not None
        assert batch == [100 + i for i in a.last_indices]
        assert set(a.last_indices) <= {1, 4, 6, 7}


@pytest.mark.parametrize("taken", range(11))
@pytest.mark.parametrize("lengths", [None, [i % 7 for i in range(23)]])
def test_resume_from_every_position_gives_the_same_rest(taken, lengths):
    def stream(a_loader, count):
        iterator = iter(a_loader)
        for _ in range(count):
            try:
                yield next(iterator)
            except StopIteration:
                iterator = iter(a_loader)
                yield next(iterator)

    left_alone = list(stream(loader(lengths=lengths), 17))
    a = loader(lengths=lengths)
    assert list(stream(a, taken)) == left_alone[:taken]
    b = loader(lengths=lengths)
    iterator = iter(b)  # made before the state is there, as an engine does
    b.load_state_dict(a.state_dict())
    assert next(iterator) == left_alone[taken]
    assert list(stream(b, 17 - taken - 1)) == left_alone[taken + 1 :]


def test_length_grouping_puts_like_lengths_together_and_shuffles_batches():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 100, 400).tolist()
    a = ResumableLoader(lengths, 8, list, lengths=lengths)
    b = ResumableLoader(lengths, 8, list)
    grouped, plain = epoch_of(a), epoch_of(b)
    assert sorted(x for batch in grouped for x in batch) == sorted(lengths)
    spread = [max(batch) - min(batch) for batch in grouped]
    assert np.mean(spread) < 0.1 * np.mean([max(batch) - min(batch) for batch in plain])
    maxima = [max(batch) for batch in grouped]
    assert maxima != sorted(maxima)
    assert maxima != sorted(maxima, reverse=True)
    assert epoch_of(a) != grouped


def test_length_grouping_without_shuffle_is_longest_first_and_complete():
    lengths = [3, 9, 1, 7, 5]
    a = ResumableLoader(lengths, 2, list, lengths=lengths, shuffle=False, drop_last=False)
    assert epoch_of(a) == [[9, 7], [5, 3], [1]]


def test_the_dropped_tail_is_not_always_the_shortest():
    lengths = list(range(1, 12))
    a = ResumableLoader(lengths, 4, list, lengths=lengths)
    dropped = {min(set(lengths) - {x for batch in a for x in batch}) for _ in range(10)}
    assert len(dropped) > 1


def test_ranks_share_every_batch():
    single = loader(seed=5)
    ranks = [loader(seed=5, rank=r, world_size=2) for r in range(2)]
    for whole, left, right in zip(single, *ranks, strict=True):
        assert len(left) == len(right) == 2
        assert sorted(left + right) == sorted(whole)


def test_ranks_may_share_unevenly():
    single, *ranks = (loader(), *(loader(rank=r, world_size=3) for r in range(3)))
    for whole, *shares in zip(single, *ranks, strict=True):
        assert [len(share) for share in shares] == [2, 1, 1]
        assert sorted(example for share in shares for example in share) == sorted(whole)


@pytest.mark.parametrize(
    "options",
    [
        {"n": 3},
        {"n": 0},
        {"batch_size": 0},
        {"lengths": [1, 2]},
        {"world_size": 5},
        {"n": 21, "world_size": 2, "drop_last": False},
    ],
)
def test_impossible_loaders_are_refused(options):
    with pytest.raises(UserError):
        loader(**options)


@pytest.mark.parametrize("other", [{"seed": 9}, {"n": 22}, {"batch_size": 5}])
def test_a_state_of_another_order_is_refused(other):
    with pytest.raises(UserError):
        loader().load_state_dict(loader(**other).state_dict())


@pytest.mark.parametrize("drop_last", [True, False])
def test_examples_seen_are_counted_as_they_are_handed_out(drop_last):
    loader = ResumableLoader(list(range(11)), 4, list, lengths=range(11), drop_last=drop_last)
    seen = 0
    assert loader.seen == 0
    for _ in range(3):
        for batch in loader:
            seen += len(batch)
            assert loader.seen == seen
    assert seen == (24 if drop_last else 33)


def test_a_numbered_loader_says_which_examples_it_hands_out_and_changes_nothing_else():
    def collate(items):
        return {"x": torch.tensor(items)}

    data = [10 * i for i in range(23)]
    options = {"batch_size": 4, "collate": collate, "seed": 3, "indices": range(2, 23)}
    plain, numbered = (ResumableLoader(data, numbered=n, **options) for n in (False, True))
    for _ in range(3):  # epochs, and one more that a resumed loader begins in the midst of
        for mine, other in zip(numbered, plain, strict=True):
            index = mine.pop("index")
            assert mine.keys() == other.keys()
            assert torch.equal(mine["x"], other["x"])
            assert torch.equal(mine["x"], 10 * index)
    position = iter(numbered)
    next(position)
    again = ResumableLoader(data, numbered=True, **options)
    again.load_state_dict(numbered.state_dict())
    assert torch.equal(next(iter(again))["index"], next(position)["index"])
    shares = [ResumableLoader(data, numbered=True, rank=r, world_size=2, **options) for r in (0, 1)]
    for left, right, whole in zip(*shares, ResumableLoader(data, **options), strict=True):
        assert sorted([*left["index"], *right["index"]]) == sorted(whole["x"] // 10)


def test_examples_are_drawn_by_their_weights():
    """Each n w / sum(w) times an epoch, rounded up or down; those without weight never."""
    weights = [0.0, 1.0, 2.5, 0.5] * 10
    loader = ResumableLoader(list(range(40)), 8, list, seed=3, weights=weights)
    drawn = np.zeros(40)
    for _ in range(50):
        epoch = np.bincount([i for batch in loader for i in batch], minlength=40)
        assert epoch.sum() == 40
        assert (np.abs(epoch - np.array(weights)) < 1).all()
        drawn += epoch
    assert np.abs(drawn.reshape(10, 4).mean(0) / 50 - weights[:4]).max() < 0.02


def test_weights_whose_sum_is_beyond_a_float_are_drawn_alike():
    loader = ResumableLoader(list(range(8)), 4, list, weights=[1.7e308] * 8)
    assert sorted(i for batch in loader for i in batch) == list(range(8))


def test_drawing_by_weights_resumes():
    def make():
        return ResumableLoader(list(range(12)), 4, list, seed=1, weights=[1, 3, 0] * 4)

    whole = make()
    batches = [batch for _ in range(2) for batch in whole]
    begun, other = make(), make()
    first = next(iter(begun))
    other.load_state_dict(begun.state_dict())
    assert [first, *other, *other] == batches


@pytest.mark.parametrize("weights", [[0, 0, 0], [1, -1, 1], [1, 1], [1, float("nan"), 1]])
def test_weights_that_nothing_can_be_drawn_by(weights):
    with pytest.raises(UserError, match="weights"):
        ResumableLoader([1, 2, 3], 1, list, weights=weights)
