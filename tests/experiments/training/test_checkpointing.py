"""Gradient checkpointing on every architecture: the same gradients, of both orders."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from bilevel.evaluation import evaluating, evaluating_for_gradients
from bilevel.lowrank import Gates, attach_gates, lora_layers
from experiments.models.memory import recompute, without_cache
from experiments.models.target_modules import target_modules
from tests.experiments.architectures import CAUSAL, CONFIGS, SEQ2SEQ, build

DROPOUT = {"attention_dropout": 0.1, "hidden_dropout": 0.1, "mlp_dropout": 0.1}
IDS = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 13, 14, 2]])


def gated(name):
    """Gated LoRA on query and value, in fp64 and with dropout everywhere; and what is trained."""
    text = name in (*CAUSAL, *SEQ2SEQ)
    options = {key: p for key, p in DROPOUT.items() if hasattr(CONFIGS[name], key)}
    base = build(name, text, attn_implementation="eager", **options)
    targets = target_modules(base, "qv")
    lora = LoraConfig(r=2, target_modules=targets, lora_dropout=0.1, init_lora_weights=False)
    model = get_peft_model(base, lora).double().train()
    gates = Gates(list(lora_layers(model)), 2).double()
    attach_gates(model, gates)
    labels = IDS if text else torch.tensor([0, 1])
    trained = [p for p in model.parameters() if p.requires_grad]
    return base, model, [*trained, gates.logits], labels


def gradients(model, trained, labels):
    """Of the loss, and of the squared length of that gradient."""
    torch.manual_seed(5)  # dropout masks
    loss = model(input_ids=IDS, labels=labels).loss
    first = torch.autograd.grad(loss, trained, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), trained)
    return [*first, *second]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_gradients(name):
    base, model, trained, labels = gated(name)
    plain = gradients(model, trained, labels)
    assert all(gradient.abs().max() > 0 for gradient in plain)
    recompute(base)
    layers = [m for m in base.modules() if getattr(m, "gradient_checkpointing", False)]
    assert layers
    for a, b in zip(plain, gradients(model, trained, labels), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CAUSAL)  # BART and T5 keep none beside labels
def test_no_keys_and_values_are_kept_for_tokens_to_come(name):
    """In training and evaluation; the gradients are the same, and the configuration comes back."""
    base, model, trained, labels = gated(name)
    assert model(input_ids=IDS, labels=labels).past_key_values is not None
    plain = gradients(model, trained, labels)
    with without_cache(model):
        assert model(input_ids=IDS, labels=labels).past_key_values is None
        for a, b in zip(plain, gradients(model, trained, labels), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert base.config.use_cache
    assert model(input_ids=IDS, labels=labels).past_key_values is not None


def kept(model, labels, mode):
    """The loss and its gradients in evaluation mode, taken after it; bytes kept for them."""
    numbers = []

    def keep(tensor):
        numbers.append(tensor.numel())
        return tensor

    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with without_cache(model), mode(model), hooks:  # as runs train decoders
        loss = model(input_ids=IDS, labels=labels).loss
    assert model.training
    return [loss, *torch.autograd.grad(loss, trained)], sum(numbers)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loss_in_evaluation_mode_is_without_dropout_and_recomputed(name):
    """Of an upper level, in the backward pass too, when the modes are back."""
    base, model, _, labels = gated(name)
    plain, whole = kept(model, labels, evaluating)
    recompute(base)
    again, fewer = kept(model, labels, evaluating_for_gradients)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert fewer < whole
    assert gradients(model, [p for p in model.parameters() if p.requires_grad], labels)
