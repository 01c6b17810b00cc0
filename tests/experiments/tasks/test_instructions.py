"""The instruction task: files, prompts, splits, and what is learned."""

from pathlib import Path

import pandas as pd
import pytest

from bilevel.errors import UserError
from experiments.answers import Decoding
from experiments.tasks.instructions import Instructions
from tests.experiments import styled

ROWS = styled.instructions(30)


def load(path: Path, **options):
    return Instructions(data_dir=str(path), **options).load()


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_a_file_is_parted_by_the_seed(tmp_path, suffix):
    path = tmp_path / f"any.{suffix}"
    if suffix.startswith("json"):
        styled.write(path, ROWS)
    else:
        frame = pd.DataFrame(ROWS)
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    data = load(path, test_share=0.2)
    train, test = data.train, data.tests["test"]
    assert (len(train), len(test), data.test_source) == (24, 6, "train_share")
    assert not {e.source for e in train} & {e.source for e in test}
    assert test[0].references == (test[0].target,)
    assert load(path, test_share=0.2).tests == data.tests
    assert load(path, test_share=0.2, subset_seed=1).tests != data.tests


def test_prompts_with_and_without_input(tmp_path):
    rows = [{"instruction": " say {input} ", "input": "a {instruction}", "output": "b"}]
    rows += [{"instruction": "sing", "output": "c"}]
    path = styled.write(tmp_path / "train.json", rows)
    styled.write(tmp_path / "test.json", rows)
    data = load(tmp_path, prompt="{instruction}|{input}", prompt_without_input="{instruction}!")
    assert [e.source for e in data.train] == ["say {input}|a {instruction}", "sing!"]
    assert (data.test_source, len(data.tests["test"])) == ("test", 2)
    assert load(path, test_share=0.5).train[0].source.startswith("Do what the task says")


def test_rows_with_one_prompt_stay_together(tmp_path):
    path = styled.write(tmp_path / "x.json", [*ROWS, *({**row, "output": "else"} for row in ROWS)])
    data = load(path, test_share=0.2)
    assert (len(data.train), len(data.tests["test"])) == (48, 6)
    assert all(len(e.references) == 2 for e in data.tests["test"])


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_cell_may_hold_several_responses(tmp_path, suffix):
    rows = [{**row, "output": [row["output"], "else"]} for row in ROWS]
    path = tmp_path / f"x.{suffix}"
    styled.write(path, rows) if suffix == "json" else pd.DataFrame(rows).to_parquet(path)
    data = load(path, test_share=0.2)
    assert (len(data.train), len(data.tests["test"])) == (48, 6)
    assert all(e.references == (e.target, "else") for e in data.tests["test"])
    assert not {e.source for e in data.train} & {e.source for e in data.tests["test"]}


def test_other_columns_and_none_for_the_input(tmp_path):
    rows = [{"ask": row["instruction"], "say": row["output"]} for row in ROWS]
    path = styled.write(tmp_path / "x.jsonl", rows)
    names = {"instruction_column": "ask", "input_column": None, "output_column": "say"}
    assert load(path, **names).train[0].target == "the soup"


def test_the_response_alone_is_learned(tmp_path):
    path = styled.write(tmp_path / "x.json", ROWS)
    data, tokenizer = load(path, decoding=Decoding()), styled.tokenizer()
    (row,) = data.tokenise(tokenizer, data.train[:1])
    learned = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(learned) == f"{data.train[0].target} </s>"
    assert tokenizer.decode(data.prompt(row, seq2seq=False)).endswith("Answer:")


def without(key: str) -> list[dict]:
    return [{k: v for k, v in row.items() if k != key} for row in ROWS]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (without("instruction"), "'instruction'.*'input', 'output'"),
        (without("output"), "column 'output'"),
        (without("input"), r"'input'.*task\.input_column=null"),
        (
            [*ROWS, {**ROWS[0], "output": " "}],
            r"row 30 .*x\.json .*'output'",
        ),
        ([*ROWS[:3], {**ROWS[0], "instruction": None}], "row 3 .*'instruction'"),
        ([], "no rows"),
        (ROWS[:1], "empty"),
    ],
)
def test_wrong_rows(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        load(styled.write(tmp_path / "x.json", rows))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "{instruction}"}, r"task\.prompt.*\{instruction\}.*\{input\}"),
        ({"prompt_without_input": "{input}"}, r"task\.prompt_without_input.*hold"),
        ({"test_share": 1.0}, r"test_share=1\.0.*in \(0, 1\)"),
        ({"data_dir": "nowhere"}, "task.data_dir=nowhere.*no such"),
        ({"metrics": ("blue",)}, "metric 'blue'"),
    ],
)
def test_wrong_options(tmp_path, options, said):
    path = styled.write(tmp_path / "x.json", ROWS)
    with pytest.raises(UserError, match=said):
        Instructions(**{"data_dir": str(path), **options}).load()


def test_wrong_files(tmp_path):
    (tmp_path / "x.json").write_text('{"instruction": "a"}\n{"instruction": "b"} {}')
    with pytest.raises(UserError, match=r"line 2 of .*x\.json.*follows"):
        load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"data": []}')
    with pytest.raises(UserError, match="array"):
        load(tmp_path / "x.json")
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(UserError, match=r"x\.txt.*\.parquet"):
        load(tmp_path / "x.txt")
