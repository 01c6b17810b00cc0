"""Planted problems: what is planted, what follows from seeds, and what every update does."""

import copy
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from bilevel.errors import UserError
from bilevel.lowrank.layers import lora_layers, lora_pattern
from experiments.answers import CLASSES, Answers
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.planted_model import PlantedModel
from experiments.models.planted_networks import PlantedNetworks, Update, plant
from experiments.models.planted_problem import PlantedProblem
from experiments.models.target_modules import target_modules
from experiments.run import main
from experiments.tasks.planted import Planted
from experiments.training.scoring import forward

PROBLEM = PlantedProblem()
SMALL = PlantedProblem(layers=2, hidden=16, heads=2, classes=4, most_rank=3)
NETWORKS = PlantedNetworks(PROBLEM)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_the_problem_follows_from_its_seed_alone():
    first = NETWORKS.teacher().state_dict()
    torch.manual_seed(17)
    np.random.seed(17)
    random.seed(17)
    states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    again = NETWORKS.teacher().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state(legacy=False)) == str(states[1])
    assert random.getstate() == states[2]
    other = PlantedNetworks(replace(PROBLEM, seed=1))
    assert not torch.equal(first["classifier.weight"], other.teacher().classifier.weight)
    assert other.true_ranks() != NETWORKS.true_ranks()


def test_sequences_and_labels_follow_from_the_seeds_of_problem_and_data():
    first = Planted(SMALL, 50, 20).load()
    torch.manual_seed(3)
    again = Planted(SMALL, 50, 20).load()
    assert (first.train, first.tests) == (again.train, again.tests)
    assert Planted(SMALL, 50, 20, data_seed=1).load().train != first.train
    assert Planted(replace(SMALL, seed=1), 50, 20).load().train != first.train


def test_updates_have_their_rank_and_equal_singular_values():
    teacher, base = NETWORKS.teacher(), NETWORKS.base().double()
    ranks = NETWORKS.true_ranks()
    assert sorted(ranks.values()) == [1, 1, 2, 2, 3, 4, 5, 6]
    for name, weight in base.named_parameters():
        change = teacher.get_parameter(name) - weight
        target = name.removesuffix(".weight")
        if target not in ranks:
            # the head was computed in float64 and is float32 in the base
            assert torch.allclose(change, torch.zeros_like(change), atol=1e-5), name
            continue
        values = torch.linalg.svdvals(change.detach())
        rank = ranks[target]
        assert values[rank - 1] == pytest.approx(float(values[0]), rel=1e-12)
        assert float(values[rank:].max()) < 1e-12 * float(values[0])
        strength = 3.0 if target.endswith("query") else 2.0
        size = torch.linalg.svdvals(weight.detach()).pow(2).mean().sqrt()
        assert float(values[0] / size) == pytest.approx(strength, rel=1e-9)


def test_ranks_can_be_given_and_a_rank_of_one_place_changes_no_other_update():
    ranks = (3, 0, 1, 2)
    given = PlantedNetworks(replace(SMALL, ranks=ranks))
    assert tuple(given.true_ranks().values()) == ranks
    names = list(given.true_ranks())
    more = PlantedNetworks(replace(SMALL, ranks=(1, 2, 1, 2))).updates()
    for name in names[2:]:
        assert torch.equal(given.updates()[name].delta(), more[name].delta())
    assert not given.updates()[names[1]].delta().any()


def test_singular_values_decay_from_the_first_one():
    networks = PlantedNetworks(replace(SMALL, decay=0.5, ranks=(3, 0, 1, 2)))
    equal = PlantedNetworks(replace(SMALL, ranks=(3, 0, 1, 2))).updates()
    teacher, base = networks.teacher(), networks.base().double()
    for name, rank in networks.true_ranks().items():
        weight = base.get_parameter(f"{name}.weight").detach()
        change = teacher.get_parameter(f"{name}.weight").detach() - weight
        values = torch.linalg.svdvals(change)
        expected = torch.zeros(16, dtype=torch.float64)
        expected[:rank] = equal[name].scale * 0.5 ** torch.arange(rank, dtype=torch.float64)
        assert torch.allclose(values, expected, rtol=1e-10, atol=1e-10)
        update = networks.updates()[name]
        assert torch.allclose(update.components().sum(0), update.delta(), rtol=0, atol=1e-12)


def inputs_of(model, names, ids):
    """Root mean square of what each named map is given."""
    found = {}

    def keep(name):
        return lambda module, given, out: found.update({name: given[0].square().mean().sqrt()})

    hooks = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    logits(model, ids)
    for hook in hooks:
        hook.remove()
    return [float(found[name]) for name in names]


def test_rescaling_changes_inputs_and_singular_values_but_nothing_that_is_computed():
    problem = replace(PROBLEM, targets="all", most_rank=2)
    plain = PlantedNetworks(problem)
    other = PlantedNetworks(replace(problem, rescale=4.0))
    ids = plain.sequences(50, plain.generator("test"))
    # weights are float32, so factors that are no powers of two round
    assert torch.allclose(logits(plain.teacher(), ids), logits(other.teacher(), ids), atol=1e-4)
    assert torch.allclose(logits(plain.base(), ids), logits(other.base(), ids), atol=1e-3)
    before, after = plain.updates(), other.updates()
    ratios = {name: after[name].scale / update.scale for name, update in before.items()}
    factors = [4 ** (place / 3) for place in (-3, -1, 1, 3)]
    layers = [f"bert.encoder.layer.{i}." for i in range(4)]
    for first, second in (
        ("attention.self.value", "attention.output.dense"),
        ("attention.self.query", "attention.self.key"),
    ):
        found = [ratios[layer + first] for layer in layers]
        assert sorted(found) == pytest.approx(factors, rel=1e-6)
        assert [1 / ratios[layer + second] for layer in layers] == pytest.approx(found, rel=1e-6)
    rest = [layer + name for layer in layers for name in ("intermediate.dense", "output.dense")]
    assert [ratios[name] for name in rest] == [1.0] * 8
    dense = [layer + "attention.output.dense" for layer in layers]
    small = inputs_of(other.base().double(), dense, ids)
    usual = inputs_of(plain.base().double(), dense, ids)
    # Where inputs are faint, updates are large.
    for name, one, two in zip(dense, small, usual, strict=True):
        assert one / two == pytest.approx(1 / ratios[name], rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_update_and_its_last_component_matter(seed):
    """Without it at least 5 % of the labels differ (without all: most) and the loss is higher."""
    problem = PlantedNetworks(replace(PROBLEM, seed=seed))
    updates, base = problem.updates(), problem.base().double()
    ids = problem.sequences(1000, problem.generator("test"))
    right = logits(problem.teacher(), ids)
    labels = right.argmax(1)
    best = functional.cross_entropy(right, labels)
    assert best < 0.35
    assert torch.bincount(labels, minlength=16).min() > 10

    def compare(parts):
        model = copy.deepcopy(base)
        plant(model, parts)
        found = logits(model, ids)
        same = (found.argmax(1) == labels).double().mean()
        return float(same), float(functional.cross_entropy(found, labels) - best)

    assert compare(updates) == (1.0, pytest.approx(0, abs=1e-4))
    assert compare({})[0] < 0.6
    for name, update in updates.items():
        less = Update(update.u[:, :-1], update.v[:, :-1], update.scale)
        for part in ({}, {name: less}):
            others = {key: value for key, value in updates.items() if key != name}
            same, more = compare({**others, **part})
            assert same < 0.95, name
            assert more > 0.03, name


def test_attention_is_neither_uniform_nor_on_one_word():
    model = NETWORKS.teacher()
    model.set_attn_implementation("eager")
    ids = NETWORKS.sequences(200, NETWORKS.generator("test"))
    with torch.no_grad():
        layers = model(input_ids=ids, output_attentions=True).attentions
    for weights in layers:
        entropy = -(weights * weights.clamp_min(1e-12).log()).sum(-1).mean()
        assert 0.4 < float(entropy) / np.log(PROBLEM.length) < 0.95


def test_a_student_with_the_planted_factors_is_the_teacher():
    data = Planted(PROBLEM, 10, 500).load()
    loaded = PlantedModel("planted", planted=PROBLEM).load(Answers(CLASSES, 16), 5)
    assert loaded.head_modules == []
    updates = NETWORKS.updates()
    scales = dict.fromkeys(updates, 2.0)
    config = LoraConfig(**lora_pattern(data.true_ranks, scales))
    student = get_peft_model(loaded.model, config)
    for name, layer in lora_layers(student).items():
        update = updates[name]
        layer.lora_A["default"].weight.data = update.v.T.float()
        layer.lora_B["default"].weight.data = (update.u * update.scale / 2).float()
    rows = data.tokenise(loaded.tokenizer, data.tests["test"])
    collate = lambda part: {  # noqa: E731
        "input_ids": torch.tensor([row["input_ids"] for row in part]),
        "attention_mask": torch.tensor([row["attention_mask"] for row in part]),
        "labels": torch.tensor([row["labels"] for row in part]),
    }
    found, loss = forward(student, data, rows, collate)
    ids = torch.tensor([row["input_ids"] for row in rows])
    expected = logits(NETWORKS.teacher(), ids).numpy()
    assert np.abs(found - expected).max() < 1e-3  # float32 against float64, outputs of size 6
    assert data.score({"test": found})["accuracy"] >= 0.998
    labels = torch.tensor([row["labels"] for row in rows])
    best = functional.cross_entropy(torch.from_numpy(expected), labels)
    assert data.reference_losses["teacher"] == pytest.approx(float(best))
    assert loss == pytest.approx(float(best), abs=1e-3)
    assert data.reference_losses["base"] > 1.5


def test_noise_is_in_the_training_labels_only():
    clean, noisy = Planted(SMALL, 1000, 100).load(), Planted(SMALL, 1000, 100, noise=0.2).load()
    wrong = sum(a.label != b.label for a, b in zip(clean.train, noisy.train, strict=True))
    assert 150 < wrong < 250
    assert clean.tests == noisy.tests
    assert [e.texts for e in clean.train] == [e.texts for e in noisy.train]


def test_a_validation_split_is_right_fresh_and_changes_nothing_else():
    plain = Planted(SMALL, 300, 100, noise=0.2).load()
    data = Planted(SMALL, 300, 100, noise=0.2, max_validation=200).load()
    assert plain.validation is None
    assert (data.train, data.tests) == (plain.train, plain.tests)
    kept = [example.texts for example in data.validation]
    assert len(set(kept)) == len(kept) == 200
    assert not set(kept) & {e.texts for e in (*data.train, *data.tests["test"])}
    ids = torch.tensor([[int(w[1:]) + 2 for w in texts[0].split()] for texts in kept])
    right = logits(PlantedNetworks(SMALL).teacher(), ids).argmax(1).tolist()
    assert [example.label for example in data.validation] == right
    few = replace(SMALL, vocabulary=2, length=3)  # eight sequences, all of them seen
    with pytest.raises(UserError, match="max_validation=5"):
        Planted(few, 300, 100, max_validation=5).load()


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 3},
        {"most_rank": 33},
        {"least_rank": 4, "most_rank": 3},
        {"least_rank": -1},
        {"ranks": (40,)},
        {"classes": 1},
        {"strength": 0.0},
        {"decay": 0.0},
        {"decay": 1.1},
        {"rescale": 0.5},
        {"logit_scale": float("inf")},
        {"seed": -1},
    ],
)
def test_impossible_problems(options):
    with pytest.raises(UserError, match=rf"{next(reversed(options))}=.*must be"):
        PlantedProblem(**options)


def test_ranks_must_be_as_many_as_targets():
    with pytest.raises(UserError, match=r"ranks=\(1, 2, 3\).*8 ranks"):
        replace(PROBLEM, ranks=(1, 2, 3))


@pytest.mark.parametrize("targets", ["qv", "all", ("key", "output.dense"), ("classifier",)])
def test_targets_are_known_without_the_transformer(targets):
    problem = replace(SMALL, targets=targets)
    base = PlantedNetworks(SMALL).base()
    assert problem.target_names() == target_modules(base, targets)
    with pytest.raises(UserError, match=r"queri.*attention\.self\.query"):
        replace(SMALL, targets=("queri",))


def plan(*words):
    return Plan.of(compose_config(["task=planted", *words]))


def test_files_say_the_defaults_and_the_model_follows_the_task():
    made = plan()
    assert made.names["model"] == "planted"
    assert made.task.planted == PROBLEM
    assert made.task == Planted()
    made = plan("task.planted.seed=3", "task.planted.ranks=[1,2,3,4,4,3,2,1]", "seed=7")
    assert made.task.planted == made.model.planted
    assert made.task.planted.seed == 3


def test_model_and_task_go_together_only():
    with pytest.raises(UserError, match=r"model=planted.*task=planted"):
        Plan.of(compose_config(["task=demo", "model=planted"]))
    with pytest.raises(UserError, match=r"task=planted.*base model"):
        Plan.of(compose_config(["task=planted", "model=demo"]))
    with pytest.raises(UserError, match=r"planted.*task"):
        PlantedModel("planted", planted=PROBLEM).load(Answers(CLASSES, 2), 0)
    data = Planted(SMALL, 10, 10).load()
    other = PlantedModel("planted", planted=replace(SMALL, seed=1)).load(Answers(CLASSES, 4), 0)
    with pytest.raises(UserError, match="model=planted"):
        data.tokenise(other.tokenizer, data.train)


def test_a_whole_run(tmp_path):
    words = [f"task.planted.{key}={getattr(SMALL, key)}" for key in ("layers", "hidden", "heads")]
    main(
        [
            *("method=autolora", "task=planted", *words, "task.planted.most_rank=3"),
            *("task.max_train=64", "task.max_test=32", "train.epochs=1", "method.rank=4"),
            *("run.figures=false", f"hydra.run.dir={tmp_path / 'run'}"),
        ]
    )
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    truth = PlantedNetworks(replace(SMALL, classes=16)).true_ranks()
    assert found["ranks"].keys() == truth.keys()
    assert found["head_parameters"] == 0
    assert 0 <= found["metrics"]["accuracy"] <= 1
