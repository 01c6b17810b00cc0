"""Which tokenised examples are the same, and which are new."""

import hashlib

from problems.common.same_examples import mark, unseen


def test_an_example_is_its_tokens_without_its_label():
    row = {"input_ids": [1, 2], "attention_mask": [1, 1], "labels": 0}
    assert mark(row) == mark({"input_ids": [1, 2], "labels": 1})
    assert len({mark({"input_ids": ids}) for ids in ([1, 2], [2, 1], [12], [1], [])}) == 5


def test_windows_and_choices_count_in_order():
    row = {"input_ids": [[1, 2, 3], [1, 4, 3]]}
    assert mark(row) == mark({"input_ids": [[1, 2, 3], [1, 4, 3]], "labels": [0, 1]})
    assert mark(row) != mark({"input_ids": [[1, 4, 3], [1, 2, 3]]})


def test_marks_on_the_disk_stay_what_they_are():
    """Runs of any age are read by their trained_on.txt: another rule would know nothing again."""
    assert mark({"input_ids": [101, 7, 102]}) == hashlib.sha256(b"[101, 7, 102]").hexdigest()[:12]


def test_unseen_examples_are_those_that_no_trained_one_is():
    rows = [{"input_ids": [1, 2], "labels": 0}, {"input_ids": [1], "labels": 1}]
    trained = [{"input_ids": [1, 2], "labels": 1}, {"input_ids": [2], "labels": 0}]
    assert unseen(rows, map(mark, trained)) == rows[1:]
    assert unseen(rows, []) == rows
    assert unseen([], map(mark, trained)) == []
