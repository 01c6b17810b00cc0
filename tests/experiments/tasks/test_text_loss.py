"""The test loss of written text is the mean over the tokens that the model is asked for."""

from __future__ import annotations

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch.nn import functional

from bilevel.labels import NO_LABEL
from experiments.answers import Decoding
from experiments.tasks.examples import TextExample
from experiments.tasks.kinds.text import TextData
from experiments.training import scoring
from tests.experiments import writers

# The first has no source, the second no token that is asked for beside it.
EXAMPLES = [
    TextExample("", "w9 w8"),
    TextExample("", ""),
    TextExample("w1 w2", "w3 w4 w5 w6"),
    TextExample("w1", "w7"),
]


def data() -> TextData:
    return TextData(
        name="own",
        train=EXAMPLES,
        tests={"test": EXAMPLES},
        test_source="test",
        metrics=("bleu",),
        decoding=Decoding(max_new_tokens=4),
        max_length=32,
        separator="",
    )


def by_hand(model, rows, virtual: int, seq2seq: bool) -> float:
    losses = []
    for row in rows:
        batch = {k: torch.tensor([row[k]]) for k in ("input_ids", "attention_mask", "labels")}
        with torch.no_grad():
            logits = model(**batch).logits[0]
        first = 0 if seq2seq else max(0, virtual - 1)
        labels = row["labels"] if seq2seq or virtual else row["labels"][1:]
        for place, label in enumerate(labels):
            if label != NO_LABEL:
                target = torch.tensor(label)
                losses.append(float(functional.cross_entropy(logits[first + place], target)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["gpt2", "virtual tokens", "bart"])
def test_a_first_token_that_nothing_stands_before(kind: str, monkeypatch) -> None:
    model = writers.model("bart" if kind == "bart" else "gpt2").eval()
    virtual, seq2seq = 3 * (kind == "virtual tokens"), kind == "bart"
    if virtual:
        options = {"num_virtual_tokens": virtual, "token_dim": model.config.hidden_size}
        model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", **options))
    task, tokenizer = data(), writers.tokenizer()
    examples = EXAMPLES
    if seq2seq:  # an encoder is given a token at least, and so is this tokenizer's decoder
        examples = [TextExample(e.source or "w0", e.target or "w1") for e in EXAMPLES]
    rows = task.tokenise(tokenizer, examples, seq2seq)
    monkeypatch.setattr(scoring, "batches", lambda lengths, size: [[0, 1], [2], [3]])
    _, loss = scoring.forward(model.eval(), task, rows, task.collator(tokenizer))
    assert loss == pytest.approx(by_hand(model, rows, virtual, seq2seq), rel=1e-5)
