"""What is said, once, of data that is taken but is hardly meant so."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from bilevel.errors import UserError
from experiments.answers import CLASSES, NUMBER, Answers, Decoding
from experiments.predicting.remarks import once_said
from experiments.tasks.classification import Classification
from experiments.tasks.examples import Example, TaggedExample, TextExample
from experiments.tasks.glue import Glue
from experiments.tasks.in_memory import GivenTask
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.pairs import separator
from experiments.tasks.kinds.remarks import say_cut, say_unknown
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData
from tests.experiments import writers
from tests.experiments.word_tokens import word_tokenizer

CAUSAL = Path(__file__).parents[3] / "experiments" / "demo" / "causal_model"
FIXED: dict[str, Any] = {"name": "own", "train": [], "tests": {}, "test_source": "none"}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def texts(*several: str, **options: Any) -> tuple[LabelledData, list[Example]]:
    options = {"max_length": 8, "label_names": ["a", "b"], "metrics": ("accuracy",), **options}
    return LabelledData(**FIXED, **options), [Example((text,), 0) for text in several]


def test_texts_that_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    data, examples = texts("w1 " * 8, "w1 " * 9, "w1 " * 30, "w1")
    rows = data.tokenise(writers.tokenizer(), examples)
    assert [len(row["input_ids"]) for row in rows] == [8, 8, 8, 1]
    (line,) = said(caplog)
    assert "2 of 4 texts are cut: the longest has 30 tokens, and 8 are allowed" in line
    assert "task.max_length=8" in line


def test_nothing_is_said_of_texts_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    data, examples = texts("w1 " * 8, "w1 foo")
    data.tokenise(writers.tokenizer(), examples)
    assert said(caplog) == []


def test_texts_without_a_known_word(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, examples = texts("the film", "Привет, мир", "the мир", "你好")
    data.tokenise(AutoTokenizer.from_pretrained(tiny), examples)
    (line,) = said(caplog)
    assert "2 of 4 texts hold no word that the model's tokenizer knows" in line
    assert "number 1" in line


def test_a_text_without_any_token_is_refused() -> None:
    data, examples = texts("w1", "")
    with pytest.raises(UserError, match=r"example 1 .*empty"):
        data.tokenise(writers.tokenizer(), examples)


def test_sentences_sources_and_targets(caplog: pytest.LogCaptureFixture) -> None:
    tags = TaggedData(**FIXED, metrics=("f1",), max_length=8, tag_names=("O",))
    tags.tokenise(writers.tokenizer(), [TaggedExample(("foo", "bar"), ("O", "O"))])
    assert "1 of 1 sentences hold no word" in said(caplog)[0]
    caplog.clear()
    written = TextData(
        **FIXED,
        metrics=("bleu",),
        max_length=12,
        max_target_length=3,
        decoding=Decoding(max_new_tokens=3),
    )
    long = TextExample("w1 " * 20, "w2 " * 7)
    examples = [long, TextExample("foo", "w2"), TextExample("w1", "w2")]
    rows = written.tokenise(writers.tokenizer(), examples)
    assert [len(row["input_ids"]) for row in rows] == [12, 4, 4]
    sources, targets, unknown = said(caplog)
    assert "1 of 3 sources" in sources
    assert "longest has 24 tokens, and 12 are allowed (task.max_length=12" in sources
    assert "1 of 3 targets are cut: the longest has 8 tokens, and 3 " in targets
    assert "1 of 3 sources hold no word" in unknown


def test_rows_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"input_ids": [3, 3], "labels": 0}, {"input_ids": [4], "labels": 1}]
    data = GivenTask({"train": rows}, Answers(CLASSES, 2, ("a", "b"))).load()
    data.tokenise(writers.tokenizer(), data.train)
    assert "1 of 2 rows hold no word" in said(caplog)[0]


def classified(folder: Path, labels: list[Any], **options: Any) -> LabelledData:
    rows = [{"text": f"w{i}", "label": label} for i, label in enumerate(labels)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Classification(data_dir=str(folder), text_columns=("text",), **options).load()


@pytest.mark.parametrize("mark", [-1, "-1", "unlabeled", "N/A", "?", -100])
def test_a_label_that_marks_none(mark: Any, tmp_path: Path, caplog: Any) -> None:
    assert len(classified(tmp_path, ["a", "b", mark, mark]).label_names or ()) == 3
    (line,) = said(caplog)
    assert f"2 of 4 rows have the label '{mark}'" in line


def test_numbers_that_are_taken_for_classes(tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(UserError, match=r"64 labels of 64 rows .*task\.regression=true"):
        classified(tmp_path, [i / 64 for i in range(64)])
    classified(tmp_path, [i / 64 for i in range(64)], regression=True)
    assert said(caplog) == []
    classified(tmp_path, [0.5, 1.0, 1.5, 2.0] * 8)
    assert "task.regression=true" in said(caplog)[0]


def test_a_column_that_holds_no_labels(tmp_path: Path, caplog: Any) -> None:
    classified(tmp_path, [f"id{i}" for i in range(64)])
    assert "64 rows have 64 labels" in said(caplog)[0]
    assert "task.label_column" in said(caplog)[0]


def test_classes_as_usual_are_not_spoken_of(tmp_path: Path, caplog: Any) -> None:
    for labels in (["neg", "pos"] * 8, [0, 1] * 8, list(range(12)) * 2):
        classified(tmp_path, labels)
    assert said(caplog) == []


def test_a_target_that_marks_none(tmp_path: Path, caplog: Any) -> None:
    classified(tmp_path, [0.5, 2.0, -1, 3.5], regression=True)
    assert "1 of 4 rows have the target -1" in said(caplog)[0]
    caplog.clear()
    classified(tmp_path, [-1, -0.5, 0.5], regression=True)
    assert said(caplog) == []
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (-1, 2.5, 3)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").unlink()
    Glue("stsb", data_dir=str(tmp_path)).load()
    assert "the target -1" in said(caplog)[0]
    caplog.clear()
    rows = [{"input_ids": [4], "labels": float(label)} for label in (-1, 2, 3)]
    GivenTask({"train": rows}, Answers(NUMBER, 1)).load()
    assert "the target -1" in said(caplog)[0]


def pair(tokenizer: Any, first: str, second: str) -> list[int]:
    data, _ = texts(max_length=32)
    return data.tokenise(tokenizer, [Example((first, second), 0)])[0]["input_ids"]


def test_texts_of_a_pair_are_kept_apart_without_a_separator_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CAUSAL)
    apart = pair(tokenizer, "the film", "plot was")
    assert "filmplot" not in tokenizer.decode(apart).replace(" ", "")
    # where the first text ends can be seen
    assert pair(tokenizer, "the film plot", "was") != apart


def test_what_stands_between() -> None:
    assert (
        separator(writers.tokenizer()) == "</s>"
    )  # words are parted by white space: no line break
    words = ["[PAD]", "[UNK]", "[SEP]", "a"]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    assert separator(word_tokenizer(words, 9, sep_token="[SEP]", **special)) == "[SEP]"
    with pytest.raises(UserError, match=r"nothing to put between.*pair"):
        separator(word_tokenizer(words, 9, **special))


def test_a_model_that_parts_pairs_itself_is_left_alone(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert separator(tokenizer) == ""
    assert pair(tokenizer, "the film", "was") == tokenizer("the film", "was")["input_ids"]


def test_of_two_kinds_of_remarks_both_are_said_and_each_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Window by window of a file that is predicted on."""
    tokenizer = AutoTokenizer.from_pretrained(CAUSAL)
    nothing, word = tokenizer.all_special_ids[:1], [len(tokenizer) - 1]
    with once_said():
        for length in (30, 50):
            say_cut("texts", [length], 8, 9, "task.max_length=8")
            say_unknown("texts", tokenizer, [nothing] * (length // 10) + [word])
    cut, unknown = said(caplog)
    assert "are cut" in cut
    assert "hold no word" in unknown
