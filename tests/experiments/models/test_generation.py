"""What is written does not depend on the batch, and only what is written is held against it."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model

from experiments.answers import Decoding
from experiments.models import batching
from experiments.models.generation import generate
from tests.experiments import writers

DECODINGS = {
    "greedy": Decoding(max_new_tokens=12),
    "beams": Decoding(beams=3, max_new_tokens=12, length_penalty=0.8),
    "no repeats": Decoding(beams=3, max_new_tokens=12, no_repeat_ngram=2, repetition_penalty=1.3),
}


def prompts(count: int = 9) -> list[list[int]]:
    """Of 1 to 12 words and the token of the beginning."""
    source = random.Random(1)
    first, last = writers.UNKNOWN + 1, writers.SIZE - 1
    return [
        [*(source.randint(first, last) for _ in range(source.randint(1, 12))), writers.BEGIN]
        for _ in range(count)
    ]


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
@pytest.mark.parametrize("kind", ["gpt2", "bart", "t5"])
def test_a_batch_is_written_as_one_by_one(kind, decoding, pad):
    model, tokenizer = writers.model(kind), writers.tokenizer(pad)
    asked = prompts()
    together = generate(model, tokenizer, asked, decoding)
    assert together == [generate(model, tokenizer, [prompt], decoding)[0] for prompt in asked]
    assert together == generate(model, tokenizer, asked, decoding)  # and again
    assert len(set(together)) > 2
    if kind != "t5":  # a random one never ends
        assert any(len(text.split()) < decoding.max_new_tokens for text in together)


def test_many_batches_keep_the_order(monkeypatch):
    model, tokenizer = writers.model("gpt2"), writers.tokenizer()
    together = generate(model, tokenizer, prompts(), DECODINGS["beams"])
    monkeypatch.setattr(batching, "EXAMPLES", 2)
    assert generate(model, tokenizer, prompts(), DECODINGS["beams"]) == together


def test_greedy_is_the_most_likely_word_each_time():
    model, tokenizer = writers.model("gpt2"), writers.tokenizer()
    asked = prompts()
    for prompt, text in zip(
        asked, generate(model, tokenizer, asked, DECODINGS["greedy"]), strict=True
    ):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 12:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == writers.END:
                break
        assert tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True).strip() == text


def test_what_the_source_says_may_be_repeated():
    """transformers' own rule would forbid a causal model every word of its source."""
    model, tokenizer = writers.model("gpt2"), writers.tokenizer()
    rule = Decoding(max_new_tokens=8, no_repeat_ngram=1, repetition_penalty=1.5)
    (told,) = generate(model, tokenizer, prompts(1), rule)
    words = told.split()
    assert len(words) == len(set(words)) > 2
    source = tokenizer(told)["input_ids"]
    # put in front of the same prompt: unseen by the model, but not by transformers' rule
    forgetful = Blinded(model, len(source))
    assert generate(forgetful, tokenizer, [[*source, *prompts(1)[0]]], rule) == [told]


class Blinded(torch.nn.Module):
    """A model that does not see the first tokens of its prompt."""

    def __init__(self, model, hidden):
        super().__init__()
        self.model, self.hidden, self.config = model, hidden, model.config

    def generate(self, input_ids, attention_mask, **options):
        attention_mask = attention_mask.clone()
        attention_mask[:, : self.hidden] = 0
        return self.model.generate(input_ids=input_ids, attention_mask=attention_mask, **options)


def test_a_models_own_settings_do_not_count():
    model, tokenizer = writers.model("bart"), writers.tokenizer()
    plain = generate(model, tokenizer, prompts(), DECODINGS["beams"])
    own = {"num_beams": 7, "min_length": 9, "no_repeat_ngram_size": 1, "length_penalty": 3.0}
    for key, value in own.items():
        setattr(model.generation_config, key, value)
    assert generate(model, tokenizer, prompts(), DECODINGS["beams"]) == plain


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_an_adapter_writes_as_the_merged_model(kind):
    tokenizer, base = writers.tokenizer(), writers.model(kind)
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    options = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    task = "CAUSAL_LM" if kind == "gpt2" else "SEQ_2_SEQ_LM"
    plain = generate(base, tokenizer, prompts(), DECODINGS["beams"])
    torch.manual_seed(1)
    model = get_peft_model(
        base,
        LoraConfig(r=2, target_modules=targets, task_type=task, init_lora_weights=False, **options),
    )
    model.train()
    adapted = generate(model, tokenizer, prompts(), DECODINGS["beams"])
    assert model.training  # its mode is put back
    assert adapted != plain
    merged = model.merge_and_unload()
    assert generate(merged, tokenizer, prompts(), DECODINGS["beams"]) == adapted
