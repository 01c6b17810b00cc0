"""The files that benchmarks make for themselves, and what they ask for of them."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import human_references, kills, large_data, peers, predict_speed
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from tests.benchmarks.asked import without_weights


@pytest.mark.parametrize("write", [large_data.write_rows, predict_speed.write_rows])
def test_rows_are_of_the_seed_and_as_many_as_asked_for(
    write: Callable[[Path, int, int], None], tmp_path: Path
) -> None:
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, 20, seed)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1] != texts[2]
    header = write is predict_speed.write_rows
    assert len(texts[0].splitlines()) == 20 + header


def test_rows_of_the_large_file_are_short_texts_with_two_labels(tmp_path: Path) -> None:
    large_data.write_rows(tmp_path / "rows.jsonl", 200, 0)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {"neg", "pos"}
    lengths = [len(row["text"].split()) for row in rows]
    assert min(lengths) >= 8
    assert max(lengths) <= 32


def test_rows_to_predict_have_a_few_long_ones(tmp_path: Path) -> None:
    predict_speed.write_rows(tmp_path / "rows.csv", 400)
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(400))
    joined = [row[predict_speed.COLUMN].count(" and ") for row in rows]
    assert (
        sum(n == 0 for n in joined) > sum(n == 1 for n in joined) > sum(n > 1 for n in joined) > 0
    )


def test_sentences_of_the_peers_are_read_by_the_task_that_is_asked_for(tmp_path: Path) -> None:
    peers.write_sentences(tmp_path, 50)
    options = argparse.Namespace(
        data=tmp_path, model="demo", examples=0, batch=4, precision="fp32", only="autolora"
    )
    data = Plan.of(compose_config(peers.words(options, "method=lora"))).task.load()
    assert len(data.train) == 50
    assert {len(rows) for rows in data.tests.values()} == {5}
    names = [peers.TRAINER, peers.OURS, peers.SEARCH]
    assert [peers._wanted(name, options.only) for name in names] == [True, False, True]


def test_the_killed_run_has_options_that_there_are() -> None:
    assert Plan.of(compose_config([*kills.WORDS, "method=autolora"])).engine.checkpoint_every == 3


@pytest.mark.parametrize("word", ["--help", "kill=3", "kills"])
def test_other_words_of_the_killed_run_are_told(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kills", word])
    monkeypatch.setattr(kills, "start", None)  # nothing is started
    with pytest.raises(SystemExit, match=rf"{word}.*allowed.*kills="):
        kills.main()


@pytest.mark.parametrize("kind", list(large_data.KINDS))
def test_each_kind_of_large_run_has_options_that_there_are(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_weights(monkeypatch)
    words = ["method=lora", "task=classification", f"task.data_dir={tmp_path}", "model=minilm"]
    plan = Plan.of(compose_config([*words, "task.text_columns=[text]", *large_data.KINDS[kind]]))
    assert plan.task.streaming == (kind == "streamed")


def test_each_reference_stands_against_the_others_of_its_input(tmp_path: Path) -> None:
    rows = {"meaning_representation": ["x", "y", "x", "x"], "human_reference": list("abcd")}
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    hypotheses, references = human_references.examples_of(tmp_path / "test.parquet", None)
    assert hypotheses == ["a", "c", "d"]  # b has no other
    assert references == [["c", "d"], ["a", "d"], ["a", "c"]]
    assert human_references.examples_of(tmp_path / "test.parquet", 1) == (["a"], [["c", "d"]])
