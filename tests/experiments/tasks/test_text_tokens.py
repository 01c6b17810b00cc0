"""The tokens of written text that a causal model reads: cut, separated and padded."""

import pytest
import torch
from transformers import AutoTokenizer

from bilevel.errors import UserError
from experiments.answers import TEXT, Answers, Decoding
from experiments.models.spec import ModelSpec
from experiments.tasks.examples import TextExample
from experiments.tasks.kinds.text import TextData
from tests.experiments import writers

EXAMPLE = TextExample("w1 w2 w3 w4 w5 w6 w7 w8", "w9")


def data(**options) -> TextData:
    """Eight tokens of source and two of target; as many as ``max_length`` are allowed."""
    fixed = {"tests": {"test": [EXAMPLE]}, "test_source": "test", "metrics": ("bleu",)}
    decoding = Decoding(max_new_tokens=4)
    return TextData(name="own", train=[EXAMPLE], decoding=decoding, **fixed, **options)


def test_a_source_is_cut_and_its_separator_is_not():
    tokenizer = writers.tokenizer()
    (row,) = data(max_length=10, separator="w0 w0").tokenise(tokenizer, [EXAMPLE])
    assert tokenizer.decode(row["input_ids"]) == "w1 w2 w3 w4 w5 w6 w0 w0 w9 </s>"
    assert row["labels"] == [-100] * 8 + row["input_ids"][8:]


def test_a_separator_that_leaves_no_room_for_its_source():
    tokenizer = writers.tokenizer()
    (row,) = data(max_length=10, separator="w0 " * 7).tokenise(tokenizer, [EXAMPLE])
    assert tokenizer.decode(row["input_ids"]) == "w1 " + "w0 " * 7 + "w9 </s>"
    with pytest.raises(UserError, match=r"task\.separator.*8.*room"):
        data(max_length=10, separator="w0 " * 8).tokenise(tokenizer, [EXAMPLE])


def test_padding_stands_behind_the_text_whatever_the_models_files_say(tmp_path):
    """Prompts and prefixes of PEFT stand before it, and positions are counted from the left."""
    writers.model("gpt2").save_pretrained(tmp_path)
    writers.tokenizer().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, padding_side="left").save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    loaded = ModelSpec("own", pretrained=str(tmp_path)).load(Answers(TEXT, 0), seed=0)
    task = data(max_length=32)
    rows = task.tokenise(loaded.tokenizer, [EXAMPLE, TextExample("w1", "w9")])
    mask = task.collator(loaded.tokenizer)(rows)["attention_mask"]
    assert torch.equal(mask, torch.tensor([[1] * 11, [1] * 4 + [0] * 7]))
