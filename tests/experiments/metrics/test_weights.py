"""How far fine-tuning moved the weights."""

import copy

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from experiments.metrics.weight_change import moved


@pytest.fixture
def base():
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=16,
        )
    )


QUERY = "bert.encoder.layer.1.attention.self.query"


def test_numbers_of_a_changed_matrix_and_of_no_other(base):
    tuned = copy.deepcopy(base)
    weight = tuned.get_submodule(QUERY).weight
    with torch.no_grad():
        weight.mul_(1.5)  # same direction, half as far again
        tuned.classifier.weight.add_(1.0)  # a head has no pretrained value
    assert moved(tuned, lambda: base) == {
        QUERY: {"cosine": pytest.approx(1.0), "relative_norm": pytest.approx(0.5)}
    }
    with torch.no_grad():
        weight.mul_(-1)
    assert moved(tuned, lambda: base)[QUERY]["cosine"] == pytest.approx(-1.0)


def test_adapters_are_merged_first(base):
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=[QUERY]))
    layer = model.get_base_model().get_submodule(QUERY)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        update = layer.get_delta_weight("default").double()
    before = base.get_submodule(QUERY).weight.double()
    expected = (update.norm() / before.norm()).item()
    assert moved(model, lambda: base)[QUERY]["relative_norm"] == pytest.approx(expected, rel=1e-5)


def test_a_small_update_of_a_bfloat16_model_is_not_rounded_away(base):
    """bfloat16 holds 8 bits of a number: an update of 1/1000 would be lost in most of them."""
    base.bfloat16()
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=[QUERY]))
    layer = model.get_base_model().get_submodule(QUERY)
    before = base.get_submodule(QUERY).weight.double()
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        size = layer.get_delta_weight("default").double().norm()
        layer.lora_B["default"].weight.mul_(1e-3 * before.norm() / size)
    found = moved(model, lambda: base)[QUERY]
    assert found["relative_norm"] == pytest.approx(1e-3, rel=1e-3)


def test_a_matrix_that_was_zero_has_no_ratio(base):
    with torch.no_grad():
        base.get_submodule(QUERY).weight.zero_()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.get_submodule(QUERY).weight.fill_(1.0)
    assert moved(tuned, lambda: base) == {QUERY: {"cosine": None, "relative_norm": None}}


def test_beside_an_adapter_no_second_model_is_loaded(base):
    """The pretrained weights are in the model itself: a second copy would cost as much memory."""
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["query", "value"]))
    layer = model.get_base_model().get_submodule(QUERY)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()

    def loaded():
        raise AssertionError("a second model was loaded")

    assert list(moved(model, loaded)) == [QUERY]


def test_prompts_change_no_weight(base):
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    assert moved(get_peft_model(copy.deepcopy(base), config), lambda: base) is None
