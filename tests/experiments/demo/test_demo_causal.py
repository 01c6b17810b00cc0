"""The tiny GPT-2 that comes with the project, and how it was made."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from experiments.answers import CLASSES, Answers
from experiments.demo import pretrain_causal
from experiments.models.spec import ModelSpec
from experiments.tasks.made_up.descriptions import pairs, unlabelled
from experiments.tasks.made_up.grammar import labelled

SPEC = ModelSpec("demo_causal", package="experiments.demo", package_folder="causal_model")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SPEC.source())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(SPEC.source()).eval()


def test_the_committed_model_is_small_and_matches_its_configuration(model, tokenizer):
    folder = Path(SPEC.source())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_500_000
    assert isinstance(model, GPT2LMHeadModel)
    skeleton = pretrain_causal.build_model(tokenizer)
    saved = load_file(folder / "model.safetensors")
    shapes = {name: value.shape for name, value in skeleton.transformer.state_dict().items()}
    assert {name.removeprefix("transformer."): v.shape for name, v in saved.items()} == shapes
    assert model.config.resid_pdrop == pretrain_causal.DROPOUT


def test_special_tokens(model, tokenizer):
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len(set(special)) == 3
    for config in (model.config, model.generation_config):
        assert [config.pad_token_id, config.bos_token_id, config.eos_token_id] == special
    assert not set(special) & set(tokenizer("the blue otter is a cafe.")["input_ids"])


def test_the_tokenizer_knows_every_word_and_gives_it_back(tokenizer):
    found = pairs(500, 7)
    references = [text for _, texts in found for text in texts]
    plain = [text for text, _ in labelled(500, 7)] + unlabelled(500, 7)
    encoded = tokenizer([text for text, _ in found] + references + plain)["input_ids"]
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in references] == references
    longest = max(len(tokenizer(m + r)["input_ids"]) for m, rs in found for r in rs)
    assert longest + 20 < tokenizer.model_max_length == pretrain_causal.LENGTH


def test_the_committed_model_foresees_unseen_text(model, tokenizer):
    torch.manual_seed(0)
    untrained = pretrain_causal.build_model(tokenizer)
    before = pretrain_causal.held_out_loss(untrained, tokenizer)
    assert pretrain_causal.held_out_loss(model, tokenizer) < 0.25 * before


def test_the_committed_model_tells_the_same_place_in_other_words(model, tokenizer):
    """What fine-tuning builds on: the second description is of the place in the first."""
    told = "[BOS] the amber otter is a cheap korean tavern in the suburbs. in other words,"
    batch = tokenizer(told, return_tensors="pt")
    said = model.generate(**batch, do_sample=False, max_new_tokens=30)
    text = tokenizer.decode(said[0, batch["input_ids"].shape[1] :])
    assert all(word in text for word in ("amber otter", "korean", "tavern")), text


def test_it_is_a_classifiers_backbone_too():
    loaded = SPEC.load(Answers(CLASSES, 2), seed=0)
    batch = loaded.tokenizer(["the film was dull", "i loved it"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert loaded.model(**batch).logits.shape == (2, 2)


def test_pretraining_lowers_the_loss_and_writes_a_loadable_model(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_causal, "TEXTS", 1000)
    arguments = ["pretrain_causal", "--steps", "40", "--batch-size", "16", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    pretrain_causal.main()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.manual_seed(0)
    untrained = pretrain_causal.build_model(tokenizer)
    before, after = (
        pretrain_causal.held_out_loss(model, tokenizer) for model in (untrained, trained)
    )
    assert after < 0.7 * before
