"""Examples of every kind come back from the disk as they were, with where they stand."""

import pytest

from bilevel.errors import UserError
from bilevel.views import key, keys, taken
from experiments.stored_data.columns import CHUNK
from experiments.stored_data.examples import StoredExamples, content_digest
from experiments.stored_data.parts import column, sources_of
from experiments.stored_data.spool import held, spooling
from experiments.tasks.examples import (
    Example,
    LabelSetExample,
    Origin,
    TaggedExample,
    TextExample,
)
from experiments.tasks.in_memory_rows import Labelled, Marked, Tagged, Written

TOKENS = {"input_ids": [3, 40000, 5], "attention_mask": [1, 1, 1]}


def origin(i, truth=None):
    return Origin(f"file {i % 2}", i, "line", truth, f"source {i % 3}")


def with_columns(example):
    example.columns = {**TOKENS, "labels": [1, -100, 2]}
    return example


KINDS = {
    "class": lambda i: Example((f"a {i}", "b"), i % 3, origin(i, i % 2)),
    "number": lambda i: Example((f"a {i}",), i / 7, origin(i, i / 3)),
    "no origin": lambda i: Example((f"a {i}",), 1),
    "label set": lambda i: LabelSetExample(("a",), tuple(range(i % 3)), origin(i)),
    "tagged": lambda i: TaggedExample(("a", str(i)), ("O", "B-X"), origin(i, ("O", "O"))),
    "text": lambda i: TextExample(f"a {i}", "b", ("b", "c")[: i % 3], origin(i)),
    "given class": lambda i: Labelled(dict(TOKENS), i % 2),
    "given set": lambda i: Marked(dict(TOKENS), (0, i % 2)[: i % 3]),
    "given tags": lambda i: with_columns(Tagged(("a", str(i)), ("O", "B-X"))),
    "given text": lambda i: with_columns(Written(f"a {i}", "b", ("b",))),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_examples_come_back_as_they_were(kind):
    count = CHUNK + 3 if kind == "class" else 7
    examples = [KINDS[kind](i) for i in range(count)]
    with spooling(4):
        stored = held(iter(examples))
    assert isinstance(stored, StoredExamples)
    assert list(stored) == examples
    assert type(stored[-1]) is type(examples[-1])
    if kind.startswith("given"):
        assert [e.columns for e in stored] == [e.columns for e in examples]
    assert sources_of(stored) == sources_of(examples)
    chosen = [5, 2, count - 1]
    assert list(taken(stored, chosen)) == taken(examples, chosen)
    assert list(taken(taken(stored, chosen), [2, 0])) == [examples[count - 1], examples[5]]


def test_few_examples_and_those_of_ones_own_kind_stay_in_memory():
    with spooling(4):
        assert held(iter(range(3))) == [0, 1, 2]
        assert held(iter(range(9))) == list(range(9))
    assert held(KINDS["class"](i) for i in range(9)) == [KINDS["class"](i) for i in range(9)]


def test_a_column_is_read_without_the_examples():
    examples = [KINDS["number"](i) for i in range(9)]
    stored = StoredExamples.write(examples)
    assert column(stored, "label") == column(examples, "label")
    assert column(taken(stored, [3, 1]), "label") == [3 / 7, 1 / 7]


def test_the_checksum_is_of_what_is_said_and_not_of_where_it_stands():
    def digest(*rows):
        return content_digest(StoredExamples.write(rows))

    first, moved = Example(("a",), 1, origin(1)), Example(("a",), 1, origin(2))
    assert digest(first) == digest(moved)
    others = [Example(("b",), 1), Example(("a",), 0), Example(("a", ""), 1), Example(("a",), 1.0)]
    assert len({digest(first), *map(digest, others)}) == 5
    both = StoredExamples.write([first, others[0]])
    assert content_digest(taken(both, [0, 1])) != content_digest(taken(both, [1, 0]))


def test_examples_are_told_apart_by_where_they_lie():
    one, other = (StoredExamples.write([KINDS["class"](i) for i in range(5)]) for _ in range(2))
    assert set(keys(one)).isdisjoint(keys(other))
    assert list(keys(taken(one, [4, 2]))) == [list(keys(one))[4], list(keys(one))[2]]
    in_memory = [object(), object()]
    assert list(keys(in_memory)) == [key(item) for item in in_memory] == [*map(id, in_memory)]


def test_rows_of_other_columns_are_refused():
    rows = [Labelled({"input_ids": [1]}, 0), Labelled({"input_ids": [1], "more": [2]}, 0)]
    with pytest.raises(UserError, match="cache_from=null"):
        StoredExamples.write(rows)
