"""How far ranks are decided, out of the lines that a run leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bilevel.cutting import Cut, Frontier, Ranking
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import record
from experiments.training.decided_ranks import of_cut
from experiments.training.job import execute

COSTS = {"a": 4, "b": 16}
SIGMA = {"a": [2.0, 1.0, 0.2], "b": [4.0, 3.0, 0.0]}


def lines(noise: float = 0.0, **changes: list[float]) -> list[dict]:
    """A record every step of a stage of 40 steps."""
    rng = np.random.default_rng(0)
    found = []
    for step in range(1, 41):
        values = {
            name: (np.array(row) * (1 + noise * rng.standard_normal(len(row)))).tolist()
            for name, row in {**SIGMA, **changes}.items()
        }
        found.append({"stage": "train", "step": step, "kind": "singular", "singular": values})
    return found


def cut(criterion: str = "singular", parameters: int = 24) -> Cut:
    """Of sigma^2 / cost: a has 1, 1/4, 1/100, b has 1, 9/16, 0."""
    ranking = Ranking(
        {n: torch.tensor(row).double() ** 2 / COSTS[n] for n, row in SIGMA.items()}, COSTS
    )
    return Cut(criterion, ranking, ranking.within(parameters), None)


def test_positions_are_of_sigma_over_the_root_of_its_cost() -> None:
    found = of_cut(cut(parameters=36), lines())
    assert found is not None
    # kept are a1, b1, b2 at 1, 1, 3/4; the first that is dropped is a2 at 1/2
    assert (found.kept, found.components, found.near, found.records) == (3, 6, 0, 10)
    middle = (0.75 + 0.5) / 2
    assert found.margin == pytest.approx((0.75 - 0.5) / middle, abs=1e-12)


def test_the_spread_is_of_the_same_positions() -> None:
    recorded = lines(0.02)
    found = of_cut(cut(parameters=36), recorded)
    positions = []  # of b2 and a2, the last that is kept and the first that is dropped
    for line in recorded[30:]:
        b2, a2 = line["singular"]["b"][1] / 4, line["singular"]["a"][1] / 2
        positions.append((2 * b2 / (a2 + b2) - 1, 2 * a2 / (a2 + b2) - 1))
    assert found is not None
    expected = np.hypot(*np.std(positions, axis=0, ddof=1))
    assert found.spread == pytest.approx(expected, abs=1e-12)


def test_noise_and_a_layer_of_fewer_singular_values() -> None:
    assert of_cut(cut(parameters=36), lines(0.3)).near > 0  # type: ignore[union-attr,operator]
    short = of_cut(cut(parameters=36), lines(b=[4.0, 3.0]))  # its matrix has a side of two
    assert short is not None
    assert short.near == 0


def test_weights_that_were_best_before_the_end() -> None:
    """Up to step 20 hardly anything moves, and after it everything does."""
    kept = {"stage": "train", "step": 20, "kind": "kept"}
    recorded = [*lines(0.001)[:20], *lines(0.5)[20:]]
    found = of_cut(cut(parameters=36), [*recorded, kept])
    assert found is not None
    assert (found.decided, found.near, found.records) == (True, 0, 5)
    last = of_cut(cut(parameters=36), recorded)
    assert last is not None
    assert last.decided is False


@pytest.mark.parametrize(("first", "step"), [(31, 12), (1, 8), (31, 32)])
def test_weights_of_before_the_record(first: int, step: int) -> None:
    """An older run's, which begins in the last quarter; and of a step with too few before it."""
    recorded = [line for line in lines() if line["step"] >= first]
    kept = {"stage": "train", "step": step, "kind": "kept"}
    found = of_cut(cut(parameters=36), [*recorded, kept])
    assert found is not None
    assert found.decided is None
    assert f"step {step}" in found.words


def test_layers_that_are_saved_as_one() -> None:
    """GPT-2's query and value, trained apart: a line has the values of both and of the one."""
    recorded = [
        {**line, "saved": line["singular"], "singular": {"a.q": [1.0], "a.v": [2.0], "b": [3.0]}}
        for line in lines(0.02)
    ]
    assert of_cut(cut(parameters=36), recorded) == of_cut(cut(parameters=36), lines(0.02))


def test_of_an_adapter_that_learned_nothing_it_is_not_known() -> None:
    frontier = Frontier([], {}, delta=0.0, learned=False, chosen=None, examples=40)
    found = of_cut(replace(cut(parameters=36), frontier=frontier), lines())
    assert found is not None
    assert found.decided is None
    assert "nothing was learned" in found.words
    learned = of_cut(replace(cut(parameters=36), frontier=replace(frontier, learned=True)), lines())
    assert learned is not None
    assert learned.decided is True


def test_what_is_not_known() -> None:
    for found, part in (
        (of_cut(cut(), None), "no record"),
        (of_cut(cut(), []), "no record"),
        (of_cut(cut("activation"), lines()), "criterion=activation"),
        (of_cut(cut(), lines(c=[1.0])), "other layers"),
        (of_cut(cut(), lines(a=[1.0] * 4)), "other layers"),
        (of_cut(cut(), lines()[:8]), "too few"),
    ):
        assert found is not None
        assert found.decided is None
        assert part in found.words
    assert of_cut(Cut("singular", cut().ranking, None, None), lines()) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=autolora"], True),
        (["method=salora", "train.epochs=4"], True),
        (["method=adalora"], True),
        (["method=lora"], False),
    ],
)
def test_methods_that_choose_say_it(
    words: list[str],
    says: bool,
    quick: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    plan = Plan.of(compose_config([*quick, *words, "run.figures=true"]))
    values = execute(plan, tmp_path)
    found = json.loads((tmp_path / "result.json").read_text())["decided"]
    if not says:
        assert found is None
        assert "decided" not in record.summary(values, tmp_path)
        return
    layers = len(values["ranks"])
    rank = 6 if words == ["method=adalora"] else 4
    assert found["components"] == layers * rank
    assert found["kept"] == sum(values["ranks"].values())
    assert found["near"] in range(layers * rank + 1)
    assert found["words"] in record.summary(values, tmp_path)
    if words == ["method=autolora"]:  # right below the ranks that its search logs
        said = [r.getMessage() for r in caplog.records]
        assert (
            said[next(i for i, s in enumerate(said) if s.startswith("ranks: ")) + 1]
            == (found["words"])
        )
