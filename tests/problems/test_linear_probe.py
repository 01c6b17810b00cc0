"""Linear probes: what they minimise, what they read of a model, and what they leave in files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from bilevel.errors import UserError
from experiments.answers import CLASSES, Answers
from experiments.models.spec import ModelSpec
from problems import LinearProbe, TrainSettings
from problems.linear_probe.fitting import fits, mean_loss
from problems.linear_probe.model import Embedder, ProbedModel, load_probe
from tests.experiments import architectures

DRAWN = np.random.default_rng(0)
X = DRAWN.normal(size=(60, 5)) * [1, 2, 0.5, 3, 1] + 1
NOISE = DRAWN.normal(size=(60, 4))
TRUE = DRAWN.normal(size=(4, 5))
LOGITS = X @ TRUE.T + NOISE


def minimum(kind, y, outputs, penalty, weights=None):
    """The same by torch's L-BFGS in float64: outputs at X."""
    x = torch.tensor((X - X.mean(0)) / X.std(0))
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else torch.tensor(weights)
    w = w / w.mean()
    weight = torch.zeros(outputs, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 2000, "tolerance_grad": 1e-10, "tolerance_change": 1e-14}
    steps = torch.optim.LBFGS([weight, bias], **options)

    def loss():
        steps.zero_grad()
        found = x @ weight.T + bias
        if kind == "number":
            each, size = (found[:, 0] - torch.tensor(y)) ** 2 / 2, weight
        elif kind == "labels":
            target = torch.tensor(y, dtype=torch.float64)
            each = functional.binary_cross_entropy_with_logits(found, target, reduction="none")
            each, size = each.sum(1), weight
        else:
            each = functional.cross_entropy(found, torch.tensor(y), reduction="none")
            size = (weight[1] - weight[0]) if outputs == 2 else weight
        value = (w * each).mean() + penalty / 2 * size.square().sum()
        value.backward()
        return value

    steps.step(loss)
    return (x @ weight.T + bias).detach().numpy()


def centred(outputs):
    return outputs - outputs.mean(1, keepdims=True)


@pytest.mark.parametrize("outputs", [2, 4])
def test_the_minimum_of_classes(outputs):
    y = LOGITS[:, :outputs].argmax(1)
    found = fits("classes", X, y, outputs, [0.03, 0.3])
    assert [one.penalty for one in found] == [0.3, 0.03]
    for one in found:
        right = minimum("classes", y, outputs, one.penalty)
        # scikit-learn stops at a gradient of 1e-4
        assert centred(one.outputs(X)) == pytest.approx(centred(right), abs=5e-3)
    said = mean_loss("classes", found[0].outputs(X), y)
    right = functional.cross_entropy(torch.tensor(found[0].outputs(X)), torch.tensor(y))
    assert said == pytest.approx(float(right), abs=1e-12)


def test_the_minimum_of_numbers_and_of_sets_of_labels():
    y = LOGITS[:, 0]
    (one,) = fits("number", X, y, 1, [0.1])
    assert one.outputs(X) == pytest.approx(minimum("number", y, 1, 0.1), abs=1e-6)
    assert mean_loss("number", one.outputs(X), y) == pytest.approx(
        np.mean((one.outputs(X)[:, 0] - y) ** 2)
    )
    sets = (LOGITS[:, :3] > 0).astype(float)
    (one,) = fits("labels", X, sets, 3, [0.1])
    assert one.outputs(X) == pytest.approx(minimum("labels", sets, 3, 0.1), abs=5e-3)
    right = functional.binary_cross_entropy_with_logits(
        torch.tensor(one.outputs(X)), torch.tensor(sets)
    )
    assert mean_loss("labels", one.outputs(X), sets) == pytest.approx(float(right), abs=1e-12)


def test_weights_count_as_repetitions():
    y = LOGITS[:, :2].argmax(1)
    weights = np.arange(60) % 3 + 1.0
    (one,) = fits("classes", X, y, 2, [0.1], weights)
    right = minimum("classes", y, 2, 0.1, weights)
    assert centred(one.outputs(X)) == pytest.approx(centred(right), abs=5e-3)
    (equal,) = fits("classes", X, y, 2, [0.1])
    assert np.abs(centred(equal.outputs(X)) - centred(right)).max() > 0.05


def test_without_a_bias_the_outputs_at_zero_are_zero():
    y = LOGITS[:, :3].argmax(1)
    (one,) = fits("classes", X, y, 3, [0.1], bias=False)
    assert not one.bias.any()
    assert mean_loss("classes", one.outputs(X), y) < np.log(3)
    (one,) = fits("number", X, LOGITS[:, 0], 1, [0.1], bias=False)
    assert not one.bias.any()


@pytest.mark.parametrize("y", [np.arange(60) % 2 * 2, np.full(60, 2)])
def test_a_class_that_does_not_occur_is_not_chosen(y):
    (one,) = fits("classes", X, y, 4, [0.1])
    assert set(one.outputs(X).argmax(1)) <= set(y)
    assert np.isfinite(one.outputs(X)).all()


def test_a_label_that_all_have_or_none_has():
    sets = np.stack([np.ones(60), np.zeros(60), LOGITS[:, 0] > 0], axis=1)
    (one,) = fits("labels", X, sets, 3, [0.1])
    said = one.outputs(X) > 0
    assert said[:, 0].all()
    assert not said[:, 1].any()


def loaded(name, folder, seed=0):
    """With a new head, whatever of it a checkpoint of the backbone lacks."""
    if not folder.is_dir():
        architectures.build(name).base_model.save_pretrained(folder)
        architectures.tokenizer().save_pretrained(folder)
    return ModelSpec("hub", pretrained=str(folder)).load(Answers(CLASSES, 3), seed)


BATCH = {
    "input_ids": torch.tensor([[4, 5, 6, 7, 2], [8, 9, 2, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
ALONE = {key: value[1:, :3] for key, value in BATCH.items()}


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
def test_padding_changes_no_embedding(name, tmp_path):
    for pooling in ("mean", "head"):
        found = loaded(name, tmp_path / "base")
        embedder = Embedder(found.model, pooling).eval()
        with torch.no_grad():
            both, alone = embedder(**BATCH), embedder(**ALONE)
        assert both.shape[0] == 2
        assert both.ndim == 2
        assert both[1].numpy() == pytest.approx(alone[0].numpy(), abs=1e-5)


def test_the_mean_is_over_the_tokens_of_the_last_layer(tmp_path):
    model = loaded("bert", tmp_path / "base").model.eval()
    with torch.no_grad():
        states = model(**ALONE, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(Embedder(model, "mean")(**BATCH)[1], states[0].mean(0), atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("pooling", ["mean", "head"])
def test_what_is_saved_is_read_back_onto_a_fresh_model(name, pooling, tmp_path):
    first = loaded(name, tmp_path / "base")
    embedder = Embedder(first.model, pooling).eval()
    with torch.no_grad():
        width = embedder(**BATCH).shape[1]
    torch.manual_seed(1)
    bias = torch.randn(3) if embedder.has_bias else torch.zeros(3)
    fresh = tuple(first.head_modules)
    probed = ProbedModel(embedder, torch.randn(3, width), bias, fresh).eval()
    probed.save_pretrained(tmp_path / "saved")
    base = loaded(name, tmp_path / "base", seed=5)  # what is new of its head is another
    again = load_probe(base.model, tmp_path / "saved")
    with torch.no_grad():
        expected = probed(**BATCH).logits
        assert torch.equal(again(**BATCH).logits, expected)
        if pooling == "mean":
            with pytest.raises(UserError, match="pooling=head"):
                again.merged()
        else:
            merged = again.merged().eval()
            merged.save_pretrained(tmp_path / "merged")
            stock = type(base.model).from_pretrained(tmp_path / "merged").eval()
            assert torch.allclose(stock(**BATCH).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "probe.weight": t["probe.weight"][:, :-1].contiguous()}, "another model"),
        (lambda t: {n: x[:2].contiguous() for n, x in t.items()}, "another model or head"),
        (lambda t: {"probe.bias": t["probe.bias"]}, "holds no linear map"),
        (lambda t: {**t, "more": torch.zeros(2)}, "another model"),
    ],
)
def test_files_of_another_model_are_refused(change, message, tmp_path):
    first = loaded("bert", tmp_path / "base")
    probed = ProbedModel(Embedder(first.model, "mean"), torch.zeros(3, 16), torch.zeros(3))
    probed.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(UserError, match=message):
        load_probe(loaded("bert", tmp_path / "base").model, tmp_path / "saved")


def test_settings():
    with pytest.raises(UserError, match="writes no text"):
        LinearProbe().check_answers("text")
    with pytest.raises(UserError, match="hold_out=0"):
        LinearProbe(hold_out=0.0).check_validation(0, 8)
    LinearProbe(hold_out=0.0, penalties=(1.0,)).check_validation(0, 8)
    with pytest.raises(UserError, match="class_weights"):
        LinearProbe().check_steps(8, TrainSettings(class_weights="balanced"))
    with pytest.raises(UserError, match="penalties"):
        LinearProbe(penalties=())
