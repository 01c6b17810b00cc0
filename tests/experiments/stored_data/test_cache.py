"""The folder of tokens: made once, whole or not at all, and nothing in it is ever run."""

import json
import logging
import multiprocessing
import pickle
from pathlib import Path

import pytest

from bilevel.errors import StorageError
from experiments.stored_data import cache
from experiments.stored_data.columns import CHUNK, chunks, write_columns
from experiments.stored_data.rows import StoredRows, row_types

COUNT = CHUNK + 5


def rows(count=COUNT):
    return [
        {
            "input_ids": [i, 30000 + i % 9][: 1 + i % 2],
            "attention_mask": [1] * (1 + i % 2),
            "labels": i % 3,
        }
        for i in range(count)
    ]


def make(path):
    parts = ({name: [row[name] for row in chunk] for name in chunk[0]} for chunk in chunks(rows()))
    write_columns(path, parts, row_types)
    return ["said"]


def never(path):
    raise AssertionError("it is there already")


def test_an_entry_is_made_once_and_says_again_what_was_said(tmp_path):
    columns, said, now = cache.entry(tmp_path, "some", make)
    assert (said, now) == (["said"], True)
    assert [dict(row) for row in StoredRows(columns)] == rows()
    columns, said, now = cache.entry(tmp_path, "some", never)
    assert (said, now) == (["said"], False)
    assert [dict(row) for row in StoredRows(columns)] == rows()
    assert {path.name for path in tmp_path.iterdir()} <= {"some.arrow", "some.json", "some.lock"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it was run')",))


def pickled(path):
    path.write_bytes(pickle.dumps(Bomb()))


@pytest.mark.parametrize("damage", [cut, flipped, pickled])
def test_a_damaged_or_foreign_file_is_made_again(tmp_path, caplog, damage):
    cache.entry(tmp_path, "some", make)
    damage(tmp_path / "some.arrow")
    with caplog.at_level(logging.WARNING):
        columns, _, now = cache.entry(tmp_path, "some", make)
    assert now
    assert "made again" in caplog.text
    assert [dict(row) for row in StoredRows(columns)] == rows()


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "[1]",
        '{"format": 1}',
        '{"format": 99, "sha256": "", "said": []}',
        '{"format": 1, "sha256": 3, "said": 4}',
    ],
)
def test_an_entry_without_its_facts_is_made_again(tmp_path, facts):
    cache.entry(tmp_path, "some", make)
    (tmp_path / "some.json").write_text(facts)
    assert cache.entry(tmp_path, "some", make)[2]


def test_right_facts_about_a_foreign_file_do_not_help_it(tmp_path):
    cache.entry(tmp_path, "some", make)
    pickled(tmp_path / "some.arrow")
    facts = json.loads((tmp_path / "some.json").read_text())
    facts["sha256"] = cache._checksum(tmp_path / "some.arrow")
    (tmp_path / "some.json").write_text(json.dumps(facts))
    assert cache.entry(tmp_path, "some", make)[2]


def test_what_fails_leaves_no_entry(tmp_path):
    def fails(path):
        path.write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        cache.entry(tmp_path, "some", fails)
    assert not list(tmp_path.glob("*.arrow")) + list(tmp_path.glob(".*tmp"))
    assert cache.entry(tmp_path, "some", make)[2]


def counted(folder, counts):
    def counting(path):
        with counts.get_lock():
            counts.value += 1
        return make(path)

    columns, _, _ = cache.entry(folder, "some", counting)
    assert len(columns) == COUNT


def test_processes_that_start_together_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counts = context.Value("i", 0)
    started = [context.Process(target=counted, args=(tmp_path, counts)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert counts.value == 1


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file: .*engine\.cache_dir=DIR"):
        cache.entry(tmp_path / "file", "some", make)


def test_the_files_are_arrow_as_others_read_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    cache.entry(tmp_path, "some", make)
    found = datasets.Dataset.from_file(str(tmp_path / "some.arrow"))
    assert found[CHUNK + 1] == rows()[CHUNK + 1]


def test_the_folder_is_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "bilevel-finetuning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / ".cache" / "bilevel-finetuning"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_takes_no_lock_is_refused_and_not_waited_for():
    with pytest.raises(StorageError, match=r"engine\.cache_dir=/proc: "):
        cache.entry(Path("/proc"), "some", never)
