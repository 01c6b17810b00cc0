"""Activation against full matrices: (dW C^1/2)_k C^-1/2, and whose tokens count."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from bilevel.cutting.criteria import Activation
from bilevel.cutting.criteria.moments import moments
from bilevel.lowrank.layers import component_costs, lora_factors, lora_layers, lora_scales

NAME = "bert.encoder.layer.1.intermediate.dense"


def passed(model, batches) -> dict[str, dict[str, torch.Tensor]]:
    """Layer -> what went in and out of the frozen map, and the gradient at its output, by tokens.

    The gradient is that of each example's loss, found one example at a time.
    """
    found = {name: {"x": [], "Wx": [], "g": []} for name in lora_layers(model)}
    model.eval()
    for batch in batches:
        for i in range(len(batch["labels"])):
            length = int(batch["attention_mask"][i].sum())  # alone, and without its padding
            single = {k: v[i : i + 1] for k, v in batch.items()}
            single |= {k: single[k][:, :length] for k in ("input_ids", "attention_mask")}
            outputs, handles = {}, []

            def keep(name, layer, outputs=outputs):
                def hook(module, args, output):
                    W = layer.get_base_layer().weight
                    found[name]["x"].append(args[0][0].detach())
                    found[name]["Wx"].append((args[0][0] @ W.T).detach())
                    outputs[name] = output

                return hook

            for name, layer in lora_layers(model).items():
                handles.append(layer.register_forward_hook(keep(name, layer)))
            loss = model(**single).loss
            gradients = torch.autograd.grad(loss, list(outputs.values()))
            for name, gradient in zip(outputs, gradients, strict=True):
                found[name]["g"].append(gradient[0])
            for handle in handles:
                handle.remove()
    return {n: {k: torch.cat(v) for k, v in row.items()} for n, row in found.items()}


def size(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(-1).mean()


@pytest.mark.parametrize("across", ["output", "gradient", "nothing"])
def test_against_full_matrices(adapted, scoring, across):
    model = adapted("bert")
    for layer in lora_layers(model).values():
        layer.get_base_layer().bias.data.fill_(0.7)  # which is no part of W x
    data = scoring(model, count=24)
    seen = passed(model, data.batches)
    scales, costs = lora_scales(model), component_costs(model)
    full = {}
    for name, layer in lora_layers(model).items():
        A, B = lora_factors(layer)
        full[name] = scales[name] * B @ A
    scores = Activation(across=across).score(model, data)
    for name, layer in lora_layers(model).items():
        x = seen[name]["x"]
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        # Layer norm leaves a direction empty: there, and only there, C^-1/2 is a pseudo-inverse.
        inside = values > 1e-9 * values[-1]
        roots = values.clamp(min=0).sqrt()
        half = vectors * roots @ vectors.T
        back = vectors[:, inside] / roots[inside] @ vectors[:, inside].T
        U, S, Vh = torch.linalg.svd(full[name] @ half)
        weight = {
            "output": lambda row: 1 / size(row["Wx"]),
            "gradient": lambda row: row["g"].square().mean(),
            "nothing": lambda row: torch.tensor(1.0),
        }[across](seen[name])
        expected = S[:4] ** 2 * weight / costs[name]
        torch.testing.assert_close(scores[name], expected, rtol=1e-9, atol=1e-15)
        A, B = lora_factors(layer)
        for k in range(1, 5):
            kept = scales[name] * B[:, :k] @ A[:k]
            best = (U[:, :k] * S[:k]) @ Vh[:k] @ back
            on_inputs = back @ half  # projects on the inputs' span
            torch.testing.assert_close(kept @ on_inputs, best, rtol=0, atol=1e-8)


def test_padding_does_not_count(adapted, scoring):
    rows = []
    for token in (7, 31):
        model = adapted("bert")
        data = scoring(model)
        for batch in data.batches:
            batch["input_ids"][batch["attention_mask"] == 0] = token
        rows.append(Activation().score(model, data))
    for name in rows[0]:
        torch.testing.assert_close(rows[0][name], rows[1][name], rtol=1e-10, atol=0)


def test_a_component_that_inputs_do_not_reach_is_worth_nothing(adapted, scoring):
    """Large in the weights, orthogonal to all inputs: singular values put it first."""
    model = adapted("bert")
    data = scoring(model)
    x = passed(model, data.batches)[NAME]["x"]
    away = torch.linalg.svd(x).Vh[-1]  # layer norm leaves the mean out
    assert (x @ away).abs().max() < 1e-6
    lora_layers(model)[NAME].lora_A["default"].weight.data[0] = 100 * away
    scores = Activation().score(model, data)
    assert scores[NAME][-1] < 1e-10 * scores[NAME][0]


def test_an_encoder_and_a_decoder_have_their_own_tokens():
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        num_decoder_layers=1, decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = get_peft_model(
        T5ForConditionalGeneration(config).double(),
        LoraConfig(r=3, target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM"),
    )
    # Source and answer of one padded length, so that no shape tells them apart.
    ids = torch.randint(2, 40, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 2 + [0] * 4])
    labels = torch.randint(2, 40, (2, 6))
    labels[0, 3:] = -100
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    found = {name: row.tokens for name, row in moments(model, [batch], gradients=True).items()}
    source, answer = 8, 9
    assert found == {
        "encoder.block.0.layer.0.SelfAttention.q": source,
        "encoder.block.0.layer.0.SelfAttention.v": source,
        "encoder.block.0.layer.1.DenseReluDense.wo": source,
        "decoder.block.0.layer.0.SelfAttention.q": answer,
        "decoder.block.0.layer.0.SelfAttention.v": answer,
        "decoder.block.0.layer.1.EncDecAttention.q": answer,
        "decoder.block.0.layer.1.EncDecAttention.v": source,
        "decoder.block.0.layer.2.DenseReluDense.wo": answer,
    }


def test_what_is_no_token_does_not_count_in_a_layer_that_has_tokens():
    """DeBERTa's queries and keys are asked of relative positions too."""
    config = DebertaV2Config(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, relative_attention=True, pos_att_type=["p2c", "c2p"],
        share_att_key=True, position_buckets=4, max_position_embeddings=16, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DebertaV2ForSequenceClassification(config).double()
    targets = ["query_proj", "key_proj", "value_proj"]
    model = get_peft_model(model, LoraConfig(r=3, target_modules=targets, task_type="SEQ_CLS"))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    labels = torch.tensor([0, 1])
    batch = {"input_ids": torch.randint(2, 40, (2, 6)), "attention_mask": mask, "labels": labels}
    found = moments(model, [batch, batch], gradients=True)
    assert {name.rpartition(".")[2]: row.tokens for name, row in found.items()} == dict.fromkeys(
        targets, 20
    )
    # of the tokens alone the three maps have the same inputs
    seen = []
    for layer in lora_layers(model).values():
        hook = layer.register_forward_hook(lambda _, args, out: seen.append(args[0]))
        with torch.no_grad():
            model(**batch)
        hook.remove()
        tokens = seen[0][mask.bool()]
        down = tokens @ layer.lora_A["default"].weight.T
        expected = 2 * down.T @ down
        (name,) = [n for n, each in lora_layers(model).items() if each is layer]
        assert torch.allclose(found[name].down, expected, rtol=1e-9, atol=1e-12)
        seen.clear()


def test_rows_without_a_mask_all_count(adapted, scoring):
    model = adapted("bert", target_modules=["pooler.dense", "query"])
    data = scoring(model)
    found = moments(model, data.batches)
    assert found["bert.pooler.dense"].tokens == 12
    assert found["bert.encoder.layer.0.attention.self.query"].tokens == 3 * (8 + 6 + 8 + 3)
