"""A text is what is likeliest token by token, whatever else is in its batch."""

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

from experiments.answers import Decoding
from experiments.models.generation import generate
from tests.experiments.architectures import SEQ2SEQ, WORDS, build, tokenizer

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15], [16, 17, 18, 19, 20], [21, 22, 23]]
CASES = [
    *((name, None) for name in ("gpt2", "gpt_neox", "llama", "bart", "t5")),
    *((name, PromptTuningConfig) for name in ("gpt2", "llama", "bart", "t5")),
    *((name, PrefixTuningConfig) for name in ("gpt2", "llama")),
]
NEW = 3


@torch.no_grad()
def likeliest(model, prompt, seq2seq):
    """NEW tokens, each by a whole forward pass over what there is, without a cache."""
    start = [model.config.decoder_start_token_id] if seq2seq else prompt
    tokens = torch.tensor([start])
    for _ in range(NEW):
        source = torch.tensor([prompt]) if seq2seq else tokens
        inputs = {"input_ids": source, "attention_mask": torch.ones_like(source)}
        if seq2seq:
            inputs["decoder_input_ids"] = tokens
        following = model(**inputs, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, following], dim=1)
    written = tokens[0, len(start) :].tolist()
    return written[: written.index(2)] if 2 in written else written


@pytest.mark.parametrize(("name", "virtual"), CASES)
def test_a_batch_writes_what_each_of_it_does(name, virtual):
    seq2seq = name in SEQ2SEQ
    # BART needs an output layer of its own, or it would only repeat its start.
    own = {"forced_eos_token_id": None, "tie_word_embeddings": False} if name == "bart" else {}
    model = build(name, text=True, noise=0.2 if own else 0.4, **own)
    if virtual is not None:
        torch.manual_seed(1)
        kind = "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM"
        options = {"num_transformer_submodules": 1} if virtual is PromptTuningConfig else {}
        model = get_peft_model(model, virtual(task_type=kind, num_virtual_tokens=3, **options))
    model.eval()
    expected = [likeliest(model, prompt, seq2seq) for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) > 1
    written = generate(model, tokenizer(), PROMPTS, Decoding(max_new_tokens=NEW))
    special = WORDS[:4]  # left out of what is written
    said = [[WORDS[t] for t in tokens if WORDS[t] not in special] for tokens in expected]
    assert [text.split() for text in written] == said
