"""task=question_answering: the forms of files, what is held out, and what is refused."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from bilevel.errors import UserError
from experiments.answers import SPANS, Answers
from experiments.tasks.examples import SpanExample
from experiments.tasks.kinds.spans import Found
from experiments.tasks.question_answering import QuestionAnswering
from tests.experiments.asked import questions, written

ROWS = questions(6)


def task(folder: Path | str, **options: Any) -> Any:
    return QuestionAnswering(data_dir=str(folder), **options)


def articles(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """SQuAD's own layout."""
    paragraphs = []
    for row in rows:
        found = row["answers"]
        pairs = zip(found["text"], found["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        asked = {"id": row["id"], "question": row["question"], "answers": answers}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    return {"version": "1.1", "data": [{"title": "none", "paragraphs": paragraphs}]}


def csv_text(rows: list[dict[str, Any]], columns: list[str], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    parts = [(row, row["answers"]["text"][0], row["answers"]["answer_start"][0]) for row in rows]
    return [{**row, "answer": text, "answer_start": start} for row, text, start in parts]


def write(form: str, rows: list[dict[str, Any]], folder: Path, split: str) -> None:
    names = ["id", "question", "context"]
    path = folder / split
    if form == "jsonl":
        written(folder, **{split: rows})
    elif form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))
    elif form == "squad":
        path.with_suffix(".json").write_text(json.dumps(articles(rows)))
    elif form == "squad.gz":
        with gzip.open(f"{path}.json.gz", "wt") as file:
            json.dump(articles(rows), file)
    elif form == "json":
        path.with_suffix(".json").write_text(json.dumps(rows))
    elif form == "csv":
        cells = [{**row, "answers": json.dumps(row["answers"])} for row in rows]
        csv_text(cells, [*names, "answers"], path.with_suffix(".csv"))
    else:
        columns = ["answer", "answer_start"] if form == "flat" else ["answer"]
        csv_text(flat(rows), [*names, *columns], path.with_suffix(".csv"))


@pytest.mark.parametrize(
    "form", ["jsonl", "parquet", "squad", "squad.gz", "json", "csv", "flat", "once"]
)
def test_every_form_says_the_same(form: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(form, ROWS, tmp_path, split)
    found = task(tmp_path).load()
    assert found.answers == Answers(SPANS, 2)
    for example, row in zip(found.train, ROWS, strict=True):
        assert (example.question, example.context, example.id) == (
            *(row["question"], row["context"]),
            row["id"],
        )
        (answer,), (text,) = example.answers, row["answers"]["text"]
        assert answer == (text, row["answers"]["answer_start"][0])
    assert [e[:4] for e in found.tests["test"]] == [e[:4] for e in found.train]
    assert (found.primary_metric, found.test_source) == ("f1", "test")


def changed(**values: Any) -> list[dict[str, Any]]:
    return [*ROWS[:2], {**ROWS[2], **values}]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"answers": {"text": [], "answer_start": []}}, "unanswerable=true"),
        ({"answers": {"text": ["nowhere"], "answer_start": [0]}}, "'nowhere' at character 0"),
        ({"answers": {"text": ["x", "y"], "answer_start": [0]}}, "2 texts and 1 beginnings"),
        ({"answers": {"text": ["x"], "answer_start": [-1]}}, "answer_start"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "for an answer"),
        ({"answers": ["nowhere"]}, "does not stand in its context"),
        ({"answers": "nowhere"}, "does not stand in its context"),
        ({"answers": "{'text': ['x']}"}, "no JSON"),
        ({"answers": 7}, "a number"),
        ({"question": None}, "'question'"),
        ({"context": ["x"]}, "'context'"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_row(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, train=changed(**values), test=ROWS)
    with pytest.raises(UserError, match=words) as stop:
        task(folder).load()
    assert "line 3 of" in str(stop.value)


def test_a_beginning_that_is_off_by_one_is_told_where_it_is(tmp_path: Path) -> None:
    row = {**ROWS[0], "context": "who is great and good", "question": "who"}
    row["answers"] = {"text": ["great"], "answer_start": [8]}
    with pytest.raises(UserError, match="it stands at 7"):
        task(written(tmp_path, train=[row], test=ROWS)).load()


def test_an_answer_that_stands_twice_needs_its_beginning(tmp_path: Path) -> None:
    row = {"question": "who", "context": "good and good", "answer": "good"}
    with pytest.raises(UserError, match=r"2 times.*start_column"):
        task(written(tmp_path / "a", train=[row], test=[row])).load()
    row["at"] = 9
    options = {"answers_column": "answer", "start_column": "at"}
    found = task(written(tmp_path / "b", train=[row], test=[row]), **options).load()
    assert found.train[0].answers == (("good", 9),)


def test_beginnings_as_pandas_writes_them_where_some_are_missing(tmp_path: Path) -> None:
    """12.0, and an empty cell: then the answer must stand in its text once."""
    rows = flat(ROWS)
    starts = [float(row["answer_start"]) for row in rows]
    for row, start in zip(rows, [starts[0], f"{starts[1]}", None, *starts[3:]], strict=True):
        row["answer_start"] = start
        del row["answers"]
    rows[2]["context"] = f"{rows[2]['context']} . "
    folder = written(tmp_path / "jsonl", train=rows, test=rows)
    found = task(folder).load()
    assert [e.answers[0].start for e in found.train] == [int(start) for start in starts]
    names = ["id", "question", "context", "answer", "answer_start"]
    (tmp_path / "csv").mkdir()
    for split in ("train", "test"):
        csv_text(rows, names, tmp_path / "csv" / f"{split}.csv")
    assert [e[:3] for e in task(tmp_path / "csv").load().train] == [e[:3] for e in found.train]
    twice = {
        **rows[0],
        "context": f"{rows[0]['context']} {rows[0]['answer']}",
        "answer_start": None,
    }
    with pytest.raises(UserError, match="2 times"):
        task(written(tmp_path / "twice", train=[twice], test=rows)).load()


@pytest.mark.parametrize("start", [12.5, "12.5", -1, -1.0, "-1", True, "x", [1]])
def test_what_is_no_beginning_is_told(start: Any, tmp_path: Path) -> None:
    rows = [{**row, "answer_start": start, "answers": None} for row in flat(ROWS)]
    options = {"answers_column": "answer", "start_column": "answer_start"}
    with pytest.raises(UserError, match=r"line 1 of .*'answer_start': this must be the number"):
        task(written(tmp_path, train=rows, test=rows), **options).load()


def test_questions_without_an_answer(tmp_path: Path) -> None:
    rows = changed(answers={"text": [], "answer_start": []})
    found = task(written(tmp_path, train=rows, test=rows), unanswerable=True).load()
    assert [len(e.answers) for e in found.train] == [1, 1, 0]
    assert found.unanswerable


def test_a_test_whose_answers_are_kept_back_is_none(tmp_path: Path) -> None:
    kept = [{**row, "answers": {"text": [], "answer_start": []}} for row in ROWS]
    folder = written(tmp_path, train=ROWS, validation=ROWS[:3], test=kept)
    found = task(folder).load()
    assert (found.test_source, len(found.tests["test"]), found.validation) == (
        "validation",
        3,
        None,
    )


def test_questions_on_one_text_are_held_out_together(tmp_path: Path) -> None:
    rows = [{**row, "id": f"{row['id']}-{i}"} for row in questions(20) for i in range(3)]
    found = task(written(tmp_path, data=rows), holdout=0.2, max_test=None).load()
    trained, tested = ({e.context for e in part} for part in (found.train, found.tests["test"]))
    assert not trained & tested
    assert len(tested) == 4
    assert len(found.tests["test"]) == 12
    again = task(str(tmp_path), holdout=0.2).scored_whole()
    assert len(again.to_score(None).tests["test"]) == 60


def test_trusted_questions_and_what_cannot_be_made_wrong(tmp_path: Path) -> None:
    folder = written(tmp_path, train=ROWS, test=ROWS)
    found = task(folder, trusted=2).load()
    assert (len(found.train), len(found.validation)) == (4, 2)
    with pytest.raises(UserError, match="label_noise"):
        task(folder, label_noise=0.5).load()


def test_files_in_another_layout(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(json.dumps(ROWS))
    path = tmp_path / "train.json"
    for value, words in (
        ({"data": [{"paragraphs": [{"context": "x"}]}]}, "'qas'"),
        ({"data": [{"paragraphs": 3}]}, "'paragraphs'"),
        ({"data": []}, "no questions"),
        ({"data": ["x"]}, "'paragraphs'"),
        ({"rows": ROWS}, "array"),
    ):
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match=words):
            task(tmp_path).load()
    path.write_text(json.dumps({"data": ROWS}))  # of the hub's loaders
    assert len(task(tmp_path).load().train) == 6


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="data_dir"):
        QuestionAnswering()
    with pytest.raises(UserError, match="streaming"):
        task("x", streaming=True)
    with pytest.raises(UserError, match="both name"):
        task("x", question_column="context")


def test_an_answer_has_no_spaces_around_it():
    """Some tokenizers' words have the space before them."""
    example = SpanExample("where?", "in Paris today", ())
    for start, end in ((2, 8), (3, 9), (2, 9)):
        found = Found(start, end, 1.0)
        assert (found.text(example), found.begin(example)) == ("Paris", 3)
    nothing = Found(-1, -1, 1.0)
    assert (nothing.text(example), nothing.begin(example)) == ("", -1)
