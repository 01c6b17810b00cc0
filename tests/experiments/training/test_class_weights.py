"""Class weights: the training loss against its equation, plain losses elsewhere, refusals."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from bilevel.errors import UserError
from experiments.answers import CLASSES, LABELS, NUMBER, TAGS, TEXT, Answers
from experiments.api import finetune
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.class_weights import (
    WeightedLoss,
    check_class_weights,
    class_weights,
)
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from problems import AutoLoRA, LoRA
from tests.experiments.training import own_files

THREE = Answers(CLASSES, 3, ("a", "b", "c"))


class Linear(nn.Module):
    """A model with logits and a loss as transformers' have them."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(5, outputs).double()

    def forward(self, x, labels=None):
        return type("Output", (), {"logits": self.map(x), "loss": None})()


def loss_of(weights, epsilon, x, labels):
    model = Linear(len(weights))
    model.register_forward_hook(WeightedLoss(weights, epsilon), with_kwargs=True)
    return model(x=x, labels=labels), model


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_equation(epsilon, per_token):
    weights = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    shape = (4, 6) if per_token else (8,)
    x = torch.randn(*shape, 5, dtype=torch.float64)
    labels = torch.randint(0, 3, shape)
    if per_token:
        labels[:, -2:] = -100
    found, _ = loss_of(weights, epsilon, x, labels)
    total, count = 0.0, 0
    for logits, y in zip(found.logits.reshape(-1, 3).tolist(), labels.reshape(-1), strict=True):
        if y == -100:
            continue
        log_p = np.array(logits) - np.log(np.exp(logits).sum())
        total += weights[y] * (-(1 - epsilon) * log_p[y] - epsilon * log_p.mean())
        count += 1
    assert float(found.loss) == pytest.approx(float(total) / count, rel=1e-12)


def test_parts_of_a_step_add_up_to_the_step():
    """As the engine weights micro-batches: by their terms."""
    weights = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    x, labels = torch.randn(10, 5, dtype=torch.float64), torch.arange(10) % 3
    whole = loss_of(weights, 0.0, x, labels)[0].loss
    parts = [
        loss_of(weights, 0.0, x[i], labels[i])[0].loss * n
        for i, n in ((slice(3), 3), (slice(3, 10), 7))
    ]
    torch.testing.assert_close(sum(parts) / 10, whole, rtol=1e-12, atol=0)


def test_several_labels_a_text():
    weights = torch.tensor([1.0, 4.0], dtype=torch.float64)
    x, labels = torch.randn(6, 5, dtype=torch.float64), torch.randint(0, 2, (6, 2)).float()
    found, _ = loss_of(weights, 0.0, x, labels)
    p = torch.sigmoid(found.logits)
    expected = -(weights * labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(found.loss, expected, rtol=1e-9, atol=0)


def test_balanced_is_scikit_learns():
    labels = [0] * 12 + [1] * 3 + [2] * 5
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = class_weights("balanced", THREE, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    rows = [[-100, 0, 0, -100], [1, 0], [2, 2, -100]]
    flat = [y for row in rows for y in row if y != -100]
    found = class_weights("balanced", Answers(TAGS, 3, ("O", "B-X", "I-X")), rows)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=flat)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_balanced_labels_of_which_a_text_has_several():
    marks = [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    found = class_weights("balanced", Answers(LABELS, 3, ("a", "b", "c")), marks)
    np.testing.assert_allclose(found.numpy(), [0.25, 1.0, 0.25], rtol=1e-6)


def test_a_class_without_examples(caplog):
    found = class_weights("balanced", THREE, [0, 0, 0, 2])
    np.testing.assert_allclose(found.numpy(), [4 / 6, 1.0, 2.0], rtol=1e-6)
    assert "'b'" in caplog.text


def test_only_the_ratios_of_given_weights_matter():
    labels = [0, 0, 0, 1, 1, 2]
    found = class_weights({"a": 1.0, "b": 2.0, "c": 4.0}, THREE, labels)
    again = class_weights({"c": 40.0, "b": 20.0, "a": 10.0}, THREE, labels)
    torch.testing.assert_close(found, again)
    assert float(found[torch.tensor(labels)].mean()) == pytest.approx(1.0, rel=1e-6)
    assert float(found[2] / found[0]) == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("kind", [NUMBER, TEXT])
def test_a_task_without_classes(kind):
    check_class_weights(None, Answers(kind, 1))
    with pytest.raises(UserError, match=r"train\.class_weights"):
        check_class_weights("balanced", Answers(kind, 1))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("{neg: 1}", "'pos'"),
        ("{neg: 1, pos: 2, neutral: 3}", "'neutral'"),
        ("{neg: 0, pos: 1}", "class_weights"),
        ("{neg: -1, pos: 1}", "class_weights"),
        ("{neg: .inf, pos: 1}", "class_weights"),
        ("even", "balanced"),
    ],
)
def test_wrong_weights_end_before_a_model_loads(tiny, tmp_path, given, word):
    data = own_files.three_files(tmp_path)
    options = own_files.words(tiny, data, "method=lora", f"train.class_weights={given}")
    with pytest.raises(UserError, match=word):
        load_task(Plan.of(compose_config(options)))


@pytest.mark.parametrize(
    "method", ["example_weights", "learned_settings", "source_weights", "linear_probe"]
)
def test_methods_that_weight_or_smooth_by_themselves_refuse_them(tiny, tmp_path, method):
    data = own_files.three_files(tmp_path)
    more = {"learned_settings": ["method.learn=[label_smoothing]"]}.get(method, [])
    if method == "source_weights":
        more = [f"task.sources={{a: {data}/train.csv, b: {data}/validation.csv}}"]
    options = own_files.words(tiny, data, f"method={method}", "train.class_weights=balanced", *more)
    with pytest.raises(UserError, match=r"train\.class_weights"):
        load_task(Plan.of(compose_config(options)))


@pytest.mark.parametrize("method", ["lora", "autolora", "full", "houlsby"])
def test_every_level_trains_by_them_and_what_is_shown_stays_plain(tiny, tmp_path, method):
    data = own_files.three_files(tmp_path)
    options = own_files.words(
        tiny, data, f"method={method}", "train.class_weights={neg: 1, pos: 9}"
    )
    plan = Plan.of(compose_config(options))
    job = FineTuningJob.load(plan, load_task(plan))
    # 56 of 64 are neg
    np.testing.assert_allclose(job.class_weights, [64 / 128, 9 * 64 / 128], rtol=1e-6)
    batch = job.data.collate(job.data.examples[:16])
    for _ in range(2):  # the second model is built anew
        stage = job.plan.method.stages()[0].prepare(job, None)
        for problem in stage.problems:
            lower = stage.problems[0].module.eval()  # no dropout
            plain = lower(**batch)
            for module in lower.modules():
                module.training = True
                if isinstance(module, nn.Dropout):
                    module.training = False
            seen = lower(**batch)
            each = nn.functional.cross_entropy(seen.logits, batch["labels"], reduction="none")
            weights = job.class_weights[batch["labels"]]
            torch.testing.assert_close(seen.loss, (weights * each).mean(), rtol=1e-5, atol=0)
            # of its own logits: the attention's dropout is no module, and was on in the others
            even = nn.functional.cross_entropy(plain.logits, batch["labels"])
            torch.testing.assert_close(plain.loss, even, rtol=1e-5, atol=0)
            assert problem.module is not None


def test_a_rare_class_is_found_more_often(tiny, tmp_path):
    """One in eight sentences has its right label pos; with weights more of them are called so."""
    train = [r for r in own_files.sentences(220) if r["label"] == "neg"]
    rare = [r for r in own_files.sentences(60, 5) if r["label"] == "pos"][: len(train) // 8]
    data = own_files.write(tmp_path / "d", train=train + rare, test=own_files.sentences(80, 2))
    shares = {}
    for given in ("null", "balanced"):
        options = own_files.words(
            tiny, data, "method=lora", f"train.class_weights={given}", "engine.evaluate_every=0"
        )
        folder = tmp_path / given
        result = own_files.run(folder, options)
        shares[given] = (folder / "predictions.jsonl").read_text().count('"prediction": "pos"')
        assert result["configuration"]["train"]["class_weights"] == (
            None if given == "null" else given
        )
    assert shares["balanced"] > shares["null"]


def test_from_python():
    plan = Plan.of(compose_config(["task=demo", "task.max_train=40", "task.max_test=24"]))
    task = plan.task.load()
    loaded = plan.model.load(Answers(CLASSES, 2), 0)
    rows = {
        "train": task.tokenise(loaded.tokenizer, task.train),
        "test": task.tokenise(loaded.tokenizer, task.tests["test"]),
    }
    small = {"max_steps": 2, "batch_size": 8}
    names = list(loaded.model.config.id2label.values())
    weights = dict(zip(names, (1.0, 3.0), strict=True))
    runs = [
        finetune(loaded.model, loaded.tokenizer, rows, LoRA(), class_weights=given, **small)
        for given in (None, "balanced", weights)
    ]
    assert len({run.result["train_loss"] for run in runs}) == 3
    with pytest.raises(UserError, match="class_weights"):
        finetune(loaded.model, loaded.tokenizer, rows, AutoLoRA(), class_weights={"x": 1}, **small)
