"""The demo's four sources: two say what is so, one knows nothing, one says the opposite."""

import pytest

from bilevel import UserError
from experiments.tasks.demo_sources import DemoSources
from experiments.tasks.sources import sizes


def wrong(rows):
    return sum(e.label != e.origin.truth for e in rows) / len(rows)


def test_what_the_sources_say():
    data = DemoSources(each=200, max_test=150).load()
    assert sizes(data.train) == dict.fromkeys(("clean", "shuffled", "flipped", "visits"), 200)
    by = {name: [e for e in data.train if e.origin.source == name] for name in sizes(data.train)}
    assert wrong(by["clean"]) == wrong(by["visits"]) == 0
    assert wrong(by["flipped"]) == 1
    assert 0.4 < wrong(by["shuffled"]) < 0.6
    for rows in by.values():
        assert sum(e.label for e in rows) == 100
        assert [e.origin.number for e in rows] == list(range(200))
    assert len(data.tests["test"]) == 150
    assert len(data.validation) == 200
    texts = [
        {e.texts[0] for e in rows} for rows in (data.train, data.validation, data.tests["test"])
    ]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


def test_sources_can_be_left_out():
    whole, part = DemoSources(each=40).load(), DemoSources(each=40, drop_sources=["flipped"]).load()
    assert sizes(part.train) == {"clean": 40, "shuffled": 40, "visits": 40}
    assert part.tests == whole.tests
    with pytest.raises(UserError, match=r"'filpped'.*did you mean 'flipped'"):
        DemoSources(each=40, drop_sources=["filpped"]).load()


def test_the_seed_decides_the_data():
    one, same, other = (DemoSources(each=20, data_seed=seed).load() for seed in (1, 1, 2))
    assert one.train == same.train
    assert one.train != other.train
