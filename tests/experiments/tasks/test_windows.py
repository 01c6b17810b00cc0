"""Answers in a text: windows, their labels, losses by question, and the answer that is chosen."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bilevel.errors import UserError
from experiments.answers import SPANS, Answers
from experiments.models.spec import ModelSpec
from experiments.tasks.examples import Answer, SpanExample
from experiments.tasks.kinds.spans import Found, SpanData
from experiments.tasks.kinds.windows import NULL, owners
from tests.experiments import writers
from tests.experiments.asked import WORDS, questions


def example(row: dict[str, Any]) -> SpanExample:
    (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
    return SpanExample(row["question"], row["context"], (Answer(text, start),), row["id"])


SHORT = [example(row) for row in questions(3)]
LONG = [example(row) for row in questions(4, seed=1, pairs=12)]


def data(examples: list[SpanExample] = SHORT, **options: Any) -> SpanData:
    fields: dict[str, Any] = {
        "name": "x",
        "train": [],
        "test_source": "test",
        "metrics": ("f1", "exact_match"),
    }
    fields |= {"tests": {"test": examples}, "max_length": 16, "stride": 4}
    return SpanData(**{**fields, **options})


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.mark.parametrize("stride", [0, 4, 500])
def test_windows_cover_the_text_and_labels_are_the_answer(tokenizer: Any, stride: int) -> None:
    rows = data(stride=stride).tokenise(tokenizer, LONG)
    assert all(len(row["input_ids"]) > 1 for row in rows)
    for row, asked in zip(rows, LONG, strict=True):
        covered, hits = set(), 0
        for ids, offsets, (start, end) in zip(
            row["input_ids"], row["offsets"], row["labels"], strict=True
        ):
            assert len(ids) <= 16
            inside = offsets[:, 0] >= 0
            words = [asked.context[a:b] for a, b in offsets[inside]]
            assert tokenizer.convert_ids_to_tokens(np.array(ids)[inside].tolist()) == words
            covered |= {(int(a), int(b)) for a, b in offsets[inside]}
            assert offsets[0, 0] == NULL
            if (start, end) == (0, 0):
                continue
            hits += 1
            answer = asked.answers[0]
            assert asked.context[offsets[start, 0] : offsets[end, 1]] == answer.text
            assert offsets[start, 0] == answer.start
        assert len(covered) == len(asked.context.split())
        assert hits >= 1


def test_an_answer_that_fits_no_window_teaches_nothing(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = LONG[0]._replace(answers=(Answer(LONG[0].context, 0),))
    none = SHORT[0]._replace(answers=())
    with caplog.at_level("WARNING"):
        rows = data(unanswerable=True).tokenise(tokenizer, [long, none])
    assert set(itertools.chain(*rows[0]["labels"])) == {-100}
    assert rows[1]["labels"] == [[0, 0]]
    assert "fit into no window" in caplog.text


def test_a_long_question_is_cut(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked = SHORT[0]._replace(question=" ".join(WORDS[:30]))
    with caplog.at_level("WARNING"):
        (row,) = data().tokenise(tokenizer, [asked])
    first = tokenizer.convert_ids_to_tokens(row["input_ids"][0])
    assert first[1:7] == WORDS[:6]
    assert first[7] == "[SEP]"
    assert "1 of 1 questions are cut" in caplog.text


def test_causal_models_have_no_token_for_no_answer(tmp_path: Path) -> None:
    writers.folder(tmp_path, "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    asked = SpanExample("w1", "w2 w3 w4", (Answer("w3", 3),))
    (row,) = data(max_length=12, stride=2).tokenise(tokenizer, [asked])
    ((start, end),) = row["labels"]
    offsets = row["offsets"][0]
    assert asked.context[offsets[start, 0] : offsets[end, 1]].strip() == "w3"
    with pytest.raises(UserError, match="unanswerable"):
        data(max_length=12, unanswerable=True).tokenise(tokenizer, [asked])


@pytest.mark.parametrize("unanswerable", [False, True])
def test_the_best_answer_against_all_of_them(tokenizer: Any, unanswerable: bool) -> None:
    examples = [SHORT[0], *LONG[:2], SHORT[1]]
    task = data(examples, max_answer_tokens=3, unanswerable=unanswerable)
    rows = task.tokenise(tokenizer, examples)
    batch = task.collator(tokenizer)(rows)
    windows = [len(row["input_ids"]) for row in rows]
    assert owners(batch).tolist() == [i for i, n in enumerate(windows) for _ in range(n)]
    said_none = 0
    for seed in range(20):
        logits = 2 * torch.randn(
            (*batch["input_ids"].shape, 2), generator=torch.Generator().manual_seed(seed)
        )
        found = task.predictions(SimpleNamespace(logits=logits), batch)
        window = 0
        for row, asked, said in zip(rows, examples, found, strict=True):
            scored, nulls = [], []
            for offsets in row["offsets"]:
                begin, end = logits[window].double().unbind(-1)
                for s, e in itertools.product(range(len(offsets)), repeat=2):
                    if s <= e < s + 3 and offsets[s, 0] >= 0 and offsets[e, 0] >= 0:
                        scored.append((float(begin[s] + end[e]), offsets[s, 0], offsets[e, 1]))
                nulls.append(float(begin[0] + end[0]))
                window += 1
            best, total = max(scored), sum(math.exp(score) for score, *_ in scored)
            if unanswerable:
                total += math.exp(min(nulls))
            if unanswerable and min(nulls) > best[0]:
                said_none += 1
                assert said.text(asked) == ""
                best = (min(nulls), -1, -1)
            assert (said.start, said.end) == best[1:]
            assert said.probability == pytest.approx(math.exp(best[0]) / total, abs=1e-5)
    assert (said_none > 0) == unanswerable


def test_losses_by_question_are_the_models_own(tiny: Path) -> None:
    loaded = ModelSpec("x", pretrained=str(tiny)).load(Answers(SPANS, 2), 0)
    examples = [SHORT[0], *LONG[:2]]
    task = data(examples)
    rows = loaded.tokenise(task, examples)
    batch = task.collator(loaded.tokenizer)(rows)
    model = loaded.model.double()
    with torch.no_grad():
        outputs = model(**batch)
        alone = [model(**task.collator(loaded.tokenizer)([row])).loss for row in rows]
    total, count = task.losses(outputs, batch)
    assert count == int((batch["labels"] != -100).sum())
    assert total / count == pytest.approx(float(outputs.loss), abs=1e-10)
    totals, terms = task.example_losses(outputs, batch)
    torch.testing.assert_close(totals / terms, torch.stack(alone), rtol=0, atol=1e-6)
    guess = task.constant_losses(rows)
    places = sum(2 * math.log((offsets[:, 0] >= 0).sum() + 1) for offsets in rows[0]["offsets"])
    assert guess is not None
    assert guess[0] == pytest.approx(places, abs=1e-9)


def test_scores_and_records() -> None:
    task = data(SHORT[:2])
    right, wrong = SHORT[0].answers[0], SHORT[1]
    said = [Found(right.start, right.start + len(right.text), 0.75), Found(-1, -1, 0.5)]
    assert task.score({"test": said}) == {"f1": 0.5, "exact_match": 0.5}
    rows = task.records(said, SHORT[:2])
    assert rows[0] == {
        "index": 0,
        "id": "q0",
        "question": SHORT[0].question,
        "answers": [right.text],
        "prediction": right.text,
        "start": right.start,
        "probability": 0.75,
    }
    assert (rows[1]["prediction"], rows[1]["answers"]) == ("", [wrong.answers[0].text])
