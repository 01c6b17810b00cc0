"""task=multiple_choice: the forms of files, how choices are called, batches, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bilevel.errors import UserError
from experiments.answers import CHOICES, Answers
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.multiple_choice import MultipleChoice
from tests.experiments.asked import choices, written

ROWS = choices(8)


def task(folder: str, **options: Any) -> Any:
    return MultipleChoice(data_dir=folder, **options)


def named(name: str, folder: str) -> Any:
    words = [f"task={name}", f"task.data_dir={folder}", "model=demo", "method=lora"]
    return Plan.of(compose_config(words)).task.load()


def relabelled(labels: Any) -> list[dict[str, Any]]:
    return [{**row, "label": labels("ABCD".index(row["label"]), row)} for row in ROWS]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (lambda i, row: "ABCD"[i], ["A", "B", "C", "D"]),
        (lambda i, row: "abcd"[i], ["a", "b", "c", "d"]),
        (lambda i, row: i, ["0", "1", "2", "3"]),
        (lambda i, row: str(i + 1), ["1", "2", "3", "4"]),
        (lambda i, row: float(i), ["0", "1", "2", "3"]),  # pandas, where a column has gaps
        (lambda i, row: f"{i + 1}.0", ["1", "2", "3", "4"]),
        (lambda i, row: row["choices"][i], ["A", "B", "C", "D"]),
    ],
)
def test_how_the_right_one_may_be_said(labels: Any, names: list[str], tmp_path: Path) -> None:
    found = task(written(tmp_path, train=relabelled(labels), test=relabelled(labels))).load()
    assert found.answers == Answers(CHOICES, 4, tuple(names))
    assert [e.label for e in found.train] == ["ABCD".index(row["label"]) for row in ROWS]
    assert found.train[0].choices == tuple(ROWS[0]["choices"])
    assert found.train[0].texts == (ROWS[0]["question"],)
    assert found.stratify(found.train) is None
    again = task(str(tmp_path)).to_score(names)
    assert [e.label for e in again.tests["test"]] == [e.label for e in found.tests["test"]]


@pytest.mark.parametrize("run", ["ABCD", "0123", "1234"])
@pytest.mark.parametrize("rows", ["ABCD", "0123", "1234"])
def test_places_to_score_may_be_called_otherwise(run: str, rows: str, tmp_path: Path) -> None:
    written(tmp_path, test=relabelled(lambda place, offered: rows[place]))
    found = task(str(tmp_path)).to_score(list(run)).tests["test"]
    assert [e.label for e in found] == ["ABCD".index(row["label"]) for row in ROWS]


def test_labels_that_are_numbers_and_choices_that_are(tmp_path: Path) -> None:
    sums = [
        {"question": f"{i} and 1", "choices": [str(i), str(i + 1), str(i + 2)], "label": str(i + 1)}
        for i in range(6)
    ]
    found = task(written(tmp_path / "a", train=sums, test=sums)).load()
    assert [e.label for e in found.train] == [1] * 6
    wrong = [*sums, {"question": "8 and 1", "choices": ["8", "9", "10"], "label": "1"}]
    with pytest.raises(UserError, match=r"two forms in column 'label': '1', .* and '3', which"):
        task(written(tmp_path / "b", train=wrong, test=sums)).load()
    unsaid = [{**row, "label": -1.0 if i else row["label"]} for i, row in enumerate(ROWS)]
    with pytest.raises(UserError, match=r"line 2 of .* is unlabelled"):
        task(written(tmp_path / "c", train=ROWS, test=unsaid)).load()


def test_labels_that_may_be_a_text_or_a_place_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"question": f"{i} and 1", "choices": ["3", "1", "2"], "label": label}
        for i, label in enumerate("123")
    ]
    found = task(written(tmp_path / "a", train=rows, test=rows)).load()
    assert [e.label for e in found.train] == [1, 2, 0]
    assert "might be a place" in caplog.text
    caplog.clear()
    plain = [{**row, "choices": ["30", "10", "20"]} for row in rows]
    task(written(tmp_path / "b", train=plain, test=plain)).load()
    assert "might be a place" not in caplog.text


def test_labels_that_are_letters_and_texts_of_other_choices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": "which", "choices": ["B", "A", "C", "D"], "label": x} for x in "ABCD"]
    folder = written(tmp_path, train=rows, test=rows)
    found = task(folder).load()
    assert [e.label for e in found.train] == [1, 0, 2, 3]
    assert "it is taken as the text" in caplog.text
    again = task(folder).to_score(found.label_names)
    assert [e.label for e in again.tests["test"]] == [1, 0, 2, 3]
    mixed = [*rows, {"question": "which", "choices": ["w", "x", "y", "z"], "label": "C"}]
    places = task(written(tmp_path / "places", train=mixed, test=mixed)).load()
    assert [e.label for e in places.train] == [0, 1, 2, 3, 2]


def test_white_space_around_a_choice_is_no_part_of_its_label(tmp_path: Path) -> None:
    rows = [{"question": "q", "choices": [" red ", "blue"], "label": x} for x in (" red ", "blue")]
    found = task(written(tmp_path, train=rows, test=rows)).load()
    assert [(e.choices, e.label) for e in found.train] == [
        ((" red ", "blue"), 0),
        ((" red ", "blue"), 1),
    ]


def test_two_equal_choices_are_told_by_place_alone(tmp_path: Path) -> None:
    rows = [{"question": "q", "choices": ["x", "x ", "y"], "label": label} for label in "xy"]
    with pytest.raises(UserError, match=r"line 1 of .*'x'.*the text of two choices"):
        task(written(tmp_path / "a", train=rows, test=rows)).load()
    rows = [{**row, "label": "ABC"[i]} for i, row in enumerate(rows)]
    found = task(written(tmp_path / "b", train=rows, test=rows)).load()
    assert [e.label for e in found.train] == [0, 1]


def test_minus_one_may_be_the_answer(tmp_path: Path) -> None:
    rows = [
        {"question": f"{i} - 2", "choices": [str(i), str(i - 2), str(i - 4)], "label": str(i - 2)}
        for i in range(3)
    ]
    hidden = [{**row, "label": -1} for row in rows]
    folder = written(tmp_path / "a", train=rows, validation=rows, test=hidden)
    found = task(folder).load()
    assert [e.label for e in found.train] == [1, 1, 1]
    assert found.test_source == "validation"  # of the test nothing is said
    with pytest.raises(UserError, match=r"line 3 of .* is unlabelled"):
        task(written(tmp_path / "b", train=rows, test=[*rows[:2], hidden[2]])).load()


def test_a_blank_choice_is_told(tmp_path: Path) -> None:
    rows = [
        {**row, "choices": ["", *row["choices"][1:]]} if i else row for i, row in enumerate(ROWS)
    ]
    with pytest.raises(UserError, match=r"line 2 of .*blank choice in column 'choices'"):
        task(written(tmp_path / "list", train=rows, test=ROWS)).load()
    folder = tmp_path / "columns"
    folder.mkdir()
    for split, b in (("train", "is"), ("test", " ")):
        (folder / f"{split}.csv").write_text(f"question,a,b,label\nw,x,y,0\nw,x,{b},1\n")
    with pytest.raises(UserError, match=r"line 3 of .*test\.csv has a blank choice in column 'b'"):
        task(str(folder), choice_columns=("a", "b")).load()


@pytest.mark.parametrize("seed", range(3))
def test_held_out_are_questions_with_their_choices(seed: int, tmp_path: Path) -> None:
    """90 of the rows ask the same of other choices; ten are there twice, once in another order."""
    rows = choices(100, seed)
    same = [{**row, "question": "which is right?"} for row in rows[:90]]
    turned = [
        {**row, "choices": row["choices"][::-1], "label": "DCBA"["ABCD".index(row["label"])]}
        for row in same[:10]
    ]
    folder = written(tmp_path, data=[*same, *rows[90:], *turned])
    found = task(folder, holdout=0.2, max_test=None, subset_seed=seed).load()
    trained, tested = (
        {(e.texts, tuple(sorted(e.choices))) for e in part}
        for part in (found.train, found.tests["test"])
    )
    assert len(tested) == 20
    assert not trained & tested


def test_held_out_are_contexts_with_their_questions(tmp_path: Path) -> None:
    rows = [
        {**row, "context": f"text {i // 5}", "question": f"question {i}"}
        for i, row in enumerate(choices(100))
    ]
    options = {"context_column": "context", "holdout": 0.2, "max_test": None}
    found = task(written(tmp_path, data=rows), **options).load()
    trained, tested = ({e.texts[0] for e in part} for part in (found.train, found.tests["test"]))
    assert len(tested) == 4
    assert not trained & tested


def test_objects_that_name_their_choices(tmp_path: Path) -> None:
    rows = [
        {
            "question": row["question"],
            "choices": {"text": row["choices"], "label": list("1234") if i % 2 else list("ABCD")},
            "answerKey": "1234"["ABCD".index(row["label"])] if i % 2 else row["label"],
        }
        for i, row in enumerate(ROWS)
    ]  # ARC's, CommonsenseQA's
    found = task(written(tmp_path, train=rows, test=rows), label_column="answerKey").load()
    assert [e.label for e in found.train] == ["ABCD".index(row["label"]) for row in ROWS]
    assert found.label_names == ["A", "B", "C", "D"]
    cells = [{**row, "choices": json.dumps(row["choices"])} for row in rows]
    again = task(
        written(tmp_path / "csv", train=cells, test=cells), label_column="answerKey"
    ).load()
    assert [e[:3] for e in again.train] == [e[:3] for e in found.train]


def test_swags_and_races_columns(tmp_path: Path) -> None:
    swag = [
        {
            **{
                "sent1": "we loved it",
                "sent2": row["question"],
                "label": "ABCD".index(row["label"]),
            },
            **{f"ending{i}": text for i, text in enumerate(row["choices"])},
        }
        for row in ROWS
    ]
    found = named("swag", written(tmp_path / "swag", train=swag, test=swag))
    assert found.train[0].texts == ("we loved it", ROWS[0]["question"])
    assert found.train[0].choices == tuple(ROWS[0]["choices"])
    race = [
        {"article": "we loved it", "options": row["choices"], "answer": row["label"]}
        | {"question": row["question"]}
        for row in ROWS
    ]
    other = named("race", written(tmp_path / "race", train=race, test=race))
    assert [e[:3] for e in other.train] == [e[:3] for e in found.train]
    assert (found.name, other.name, other.max_length) == ("swag", "race", 512)


def test_rows_and_batches(tiny: Path, tmp_path: Path) -> None:
    data = task(written(tmp_path, train=ROWS, test=ROWS)).load()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    rows = data.tokenise(tokenizer, data.train)
    for row, given in zip(rows, ROWS, strict=True):
        for ids, choice in zip(row["input_ids"], given["choices"], strict=True):
            assert tokenizer.decode(ids) == f"[CLS] {given['question']} [SEP] {choice} [SEP]"
    batch = data.collator(tokenizer)(rows)
    assert batch["input_ids"].shape == (8, 4, 6)
    assert batch["attention_mask"].shape == (8, 4, 6)
    assert batch["labels"].tolist() == [e.label for e in data.train]
    logits = torch.zeros(8, 4)
    logits[:, 2] = 1.0
    outputs = type("O", (), {"logits": logits})
    said = data.records(data.predictions(outputs, batch), data.train)
    assert {row["prediction"] for row in said} == {"C"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"label": "E"}, "'E'"),
        ({"label": None}, "unlabelled"),
        ({"label": True}, "'True'"),
        ({"label": [1]}, r"\[1\]"),
        ({"choices": ROWS[0]["choices"][:3]}, "3 choices"),
        ({"choices": "x"}, "choice_columns"),
        ({"choices": ["x", None, "y", "z"]}, "no text"),
        ({"question": None}, "'question'"),
    ],
)
def test_a_wrong_row_is_told(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    rows = [*ROWS[:2], {**ROWS[2], **values}]
    folder = written(tmp_path, train=ROWS, test=rows)
    with pytest.raises(UserError, match=words) as stop:
        task(folder).load()
    assert "line 3 of" in str(stop.value)


def test_labels_that_are_none(tmp_path: Path) -> None:
    folder = written(tmp_path, train=[{**ROWS[0], "label": "yes"}], test=ROWS)
    with pytest.raises(UserError, match="'yes'"):
        task(folder).load()


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="question_column"):
        task("x", question_column=None)
    with pytest.raises(UserError, match="choice_columns"):
        task("x", choice_columns=("a",))
    with pytest.raises(UserError, match="both name"):
        task("x", choice_columns=("a", "a"))


def test_a_question_with_other_choices_than_were_trained(tiny: Path, tmp_path: Path) -> None:
    data = task(written(tmp_path, train=ROWS, test=ROWS)).to_predict(["A", "B"])
    example = task(str(tmp_path)).inputs().example(ROWS[0], "row 0")
    with pytest.raises(UserError, match="4 choices"):
        data.tokenise(AutoTokenizer.from_pretrained(tiny), [example])
