"""task.chat_template: conversations read, learned, cut, written, predicted; what is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments import chat_rows, finetune, load
from experiments.answers import Decoding
from experiments.results import record
from experiments.run import main
from experiments.tasks.conversations import as_source, messages_of, of_source
from experiments.tasks.examples import TextExample
from experiments.tasks.instructions import Instructions
from problems import LoRA
from tests.experiments import writers
from tests.experiments.artefacts import cards
from tests.experiments.models.test_chat import CHATML, bytes_tokenizer

WORDS = (
    "{% for m in messages %}<s> {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> {% endif %}"
)


def said(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """Messages of a user and an assistant in turn."""
    head = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return head + [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def written(path: Path, talks: list[Any], column: str = "messages") -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".parquet":
        pd.DataFrame({column: talks}).to_parquet(path)
    else:
        path.write_text("".join(json.dumps({column: talk}) + "\n" for talk in talks))
    return path


def task(path: Path, **options: Any) -> Instructions:
    options = {"chat_template": True, "messages_column": "messages", **options}
    return Instructions(data_dir=str(path), **options)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_conversations_of_a_folder(tmp_path: Path, suffix: str) -> None:
    train = [said("a", "b", "c", "d", system="be short"), said("e", "f")]
    written(tmp_path / f"train{suffix}", train)
    written(tmp_path / f"test{suffix}", [said("e", "f"), said("e", "g"), said("x", "y")])
    data = task(tmp_path).load()
    assert [of_source(e.source) for e in data.train] == [train[0][:-1], train[1][:-1]]
    assert [e.target for e in data.train] == ["d", "f"]
    assert [e.references for e in data.tests["test"]] == [("f", "g"), ("y",)]


def test_rows_of_instructions_are_a_question_and_its_answer(tmp_path: Path) -> None:
    rows = [{"instruction": " add ", "input": "1, 2", "output": "3"}]
    rows += [{"instruction": "sing", "input": "", "output": "la"}]
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    data = task(tmp_path, messages_column=None).load()
    assert [of_source(e.source) for e in data.train] == [
        [{"role": "user", "content": "add\n\n1, 2"}],
        [{"role": "user", "content": "sing"}],
    ]


def spans(tokenizer: Any, row: dict[str, Any]) -> str:
    """What is learned of a row, _ for what is not."""
    marks = "".join("_" if label == NO_LABEL else "x" for label in row["labels"])
    learned = [t for t in row["labels"] if t != NO_LABEL]
    assert [a for a, b in zip(row["input_ids"], marks, strict=True) if b == "x"] == learned
    return str(tokenizer.decode(learned))


def data(max_length: int = 512, new: int = 16, **options: Any) -> Any:
    made = Instructions(
        data_dir="x",
        chat_template=True,
        max_length=max_length,
        decoding=Decoding(max_new_tokens=new),
        **options,
    )
    return made.to_predict(None)


def example(*texts: str, test: bool = False, system: str | None = None) -> TextExample:
    *before, last = said(*texts, system=system)
    return TextExample(as_source(before), last["content"], (last["content"],) if test else ())


def test_all_answers_are_learned_and_the_last_is_tested() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    train, test = data().tokenise(
        tokenizer, [example("a", "b", "c", "d"), example("a", "b", "c", "d", test=True)]
    )
    assert spans(tokenizer, train) == "b<|im_end|>d<|im_end|>"
    assert spans(tokenizer, test) == "d<|im_end|>"
    assert train["input_ids"] == test["input_ids"]
    theirs = tokenizer.apply_chat_template(
        said("a", "b", "c"), tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert data().prompt(train, False) == data().prompt(test, False) == theirs
    assert data().prompts(tokenizer, [TextExample(as_source(said("a", "b", "c")), "")]) == [theirs]


def test_of_a_long_conversation_the_first_turns_go(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = bytes_tokenizer(CHATML)
    long = example("a" * 50, "b" * 50, "c", "d", system="s")
    (row,) = data(max_length=100).tokenise(tokenizer, [long])
    (short,) = data().tokenise(tokenizer, [example("c", "d", system="s")])
    assert row == short
    assert "1 of 1 conversations are cut" in caplog.text


def test_of_a_long_question_the_beginning_goes_and_of_a_long_answer_the_end() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    question, answer = example("ab" * 100, "yes"), example("q", "yes" * 100)
    rows = data(max_length=64).tokenise(tokenizer, [question, answer])
    assert [len(row["input_ids"]) for row in rows] == [64, 64]
    assert spans(tokenizer, rows[0]) == "yes<|im_end|>"
    assert tokenizer.decode(rows[0]["input_ids"]).endswith(
        "ab<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
    )
    assert ("yes" * 100).startswith(spans(tokenizer, rows[1]))
    # the answer's room is kept where it is written
    (row,) = data(max_length=512, new=400).tokenise(tokenizer, [example("ab" * 100, "y")])
    assert len(data().prompt(row, False)) == 512 - 400


def test_the_last_answer_is_cut_to_max_target_length() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    (row,) = data(max_target_length=5).tokenise(tokenizer, [example("q", "abcdefgh")])
    assert spans(tokenizer, row) == "abcd<|im_end|>"


def test_a_template_without_the_end_of_text_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = bytes_tokenizer(CHATML.replace("<|im_end|>", "|"))
    data().tokenise(tokenizer, [example("q", "a")])
    assert "end of text" in caplog.text


def test_half_a_character_from_python_is_refused() -> None:
    with pytest.raises(UserError, match=r"message 1 holds half a character, \\udc00"):
        messages_of(said("a", "b \udc00"), "messages", "conversation 0")


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (said("a", "b", "c"), r"line 1.*user, and no answer"),
        ([{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}], "'bot'.*assistant"),
        ([{"from": "human", "value": "a"}], r"role and content.*'from'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0.*a list"),
        ([{"role": "user", "content": ""}], "empty text"),
        ([{"role": "assistant", "content": "b"}], "message of a user"),
        ([*said("a"), {"role": "system", "content": "s"}, *said("b")], "first"),
        ("hello", "a list of messages"),
        (str(said("a", "b")), "printed"),
        ([], "messages"),
        (
            [*said("a"), {"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}],
            "tools",
        ),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, talk: Any, words: str) -> None:
    written(tmp_path / "train.jsonl", [talk])
    written(tmp_path / "test.jsonl", [said("a", "b")])
    with pytest.raises(UserError, match=words):
        task(tmp_path).load()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chat_template": False}, "messages_column"),
        ({"separator": "x"}, r"separator.*chat_template"),
        ({"prompt": "{instruction}{input}"}, r"prompt.*chat_template"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        task(tmp_path, **options)


def test_a_column_of_conversations_that_is_not_named(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", [said("a", "b")])
    written(tmp_path / "test.jsonl", [said("a", "b")])
    with pytest.raises(UserError, match=r"messages_column=messages"):
        task(tmp_path, messages_column=None, chat_template=False).load()


def options_of(model: Path, folder: Path) -> list[str]:
    return [
        *("task=instructions", f"task.data_dir={folder}", "task.chat_template=true"),
        *("task.messages_column=messages", "task.decoding.max_new_tokens=4", "task.metrics=[bleu]"),
        *(
            "task.max_length=48",
            "model=hub",
            f"model.pretrained={model}",
            "model.quantization=null",
        ),
        *("method=lora", "method.rank=2", "train.max_steps=2", "train.batch_size=4"),
        *("engine.precision=fp32", "run.figures=false"),
    ]


def test_a_run_and_predictions_with_it(tmp_path: Path) -> None:
    model = writers.folder(tmp_path / "model", "gpt2")
    tokenizer = writers.tokenizer()
    tokenizer.chat_template = WORDS
    tokenizer.save_pretrained(model)
    talks = [said(f"w{i % 7} w1", f"w{i % 5}", "w2", f"w{i % 3} w4") for i in range(12)]
    written(tmp_path / "data" / "train.jsonl", talks)
    written(tmp_path / "data" / "test.jsonl", talks[:4])
    out = tmp_path / "run"
    main([*options_of(model, tmp_path / "data"), f"hydra.run.dir={out}"])
    result = record.read(out)
    assert result is not None
    assert result["test_loss"] > 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [of_source(line["source"]) for line in lines] == [talk[:-1] for talk in talks[:4]]
    (code, *_) = cards.blocks(out / "adapter")
    mine = {"./model": str(model), '[{"role": "user", "content": "Name three colours."}]': "talk"}
    _, printed = cards.run(f"talk = {talks[0][:-1]!r}\n{code}", out, **mine)
    assert printed.strip() == lines[0]["prediction"]
    rows = [{"messages": talk[:-1]} for talk in talks[:4]]
    found = load(out).predict(rows)
    assert [row["prediction"] for row in found] == [line["prediction"] for line in lines]


def test_rows_for_python() -> None:
    tokenizer = bytes_tokenizer(CHATML)
    talk = said("a", "b", "c", "d")
    (train,), (test,) = chat_rows(tokenizer, [talk]), chat_rows(tokenizer, [talk], last_only=True)
    rows = data().tokenise(tokenizer, [example("a", "b", "c", "d")])
    assert train == rows[0]
    assert spans(tokenizer, test) == "d<|im_end|>"
    assert test["references"] == ["d"]
    for wrong in (talk[:-1], "talk"):
        with pytest.raises(UserError, match="conversation 0"):
            chat_rows(tokenizer, [wrong])


def test_from_python(tmp_path: Path) -> None:
    model, tokenizer = writers.model("gpt2"), writers.tokenizer()
    tokenizer.chat_template = WORDS
    talks = [said(f"w{i % 7} w1", f"w{i % 5}", "w2", f"w{i % 3} w4") for i in range(8)]
    run = finetune(
        model,
        tokenizer,
        {
            "train": chat_rows(tokenizer, talks),
            "test": chat_rows(tokenizer, talks[:2], last_only=True),
        },
        LoRA(rank=2),
        decoding=Decoding(max_new_tokens=4),
        max_steps=2,
        batch_size=4,
    )
    assert run.result["kind"] == "text"
    assert run.result["test_loss"] > 0


def test_a_tokenizer_without_a_template_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = writers.folder(tmp_path / "model", "gpt2")
    written(tmp_path / "data" / "train.jsonl", [said("w1", "w2")] * 8)
    written(tmp_path / "data" / "test.jsonl", [said("w1", "w2")])
    with pytest.raises(SystemExit):
        main([*options_of(model, tmp_path / "data"), f"hydra.run.dir={tmp_path / 'run'}"])
    assert "no chat template" in capsys.readouterr().err
