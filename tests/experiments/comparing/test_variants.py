"""Which runs are seeds of one another, whatever words they were started with."""

from experiments.comparing.variants import name_alike, told_apart
from experiments.results.grid import RANK, searched


def run(seed, variant="", method="lora", **train):
    values = {"task": "t", "model": "m", "method": method, "seed": seed, "variant": variant}
    return {**values, "configuration": {"seed": seed, "train": train}}


def test_mappings_of_the_users_own_names_are_compared_whole():
    weights = [{"a": 1, "b": 2}, None, {"a": 1, "c": 2}]
    found = told_apart([run(i, class_weights=w) for i, w in enumerate(weights)])
    assert len({r["variant"] for r in found}) == 3
    found = told_apart([run(i, class_weights={"a": 1}) for i in range(2)])
    assert {r["variant"] for r in found} == {""}


def test_one_configuration_has_one_name():
    runs = [run(0, "train.lr=1e-3", lr=1e-3), run(1, "train.lr=0.001", lr=1e-3)]
    runs += [run(2, "train.lr=0.002", lr=2e-3), run(3, "", lr=1e-3)]
    name_alike(runs)
    assert [r["variant"] for r in runs] == ["", "", "train.lr=0.002", ""]
    older = [{**run(0, "a=1"), "configuration": None}, {**run(1, "b=1"), "configuration": None}]
    name_alike(older)
    assert [r["variant"] for r in older] == ["a=1", "b=1"]


def of_grid(seed, rank, lr, loss):
    took = {"seconds": {"train": 1.0}, "processor_seconds": {"train": 1.0}, "peak_memory_mib": 1}
    found = {**run(seed, method="lora_grid", lr=lr), **took, "validation_loss": loss}
    found["configuration"] = {**found["configuration"], "method": {"rank": rank}}
    return {**found, "examples_seen": {"lower": 1, "upper": 0}}


def test_a_grid_is_of_ranks_alone_and_whole(caplog):
    ranks, losses = (1, 2, 4), (30, 20, 40)
    runs = [
        of_grid(seed, rank, lr, loss + 100 * lr)
        for seed in (0, 1)
        for lr in (0.01, 0.02)
        for rank, loss in zip(ranks, losses, strict=True)
    ]
    found = searched([*runs, runs[0]], RANK)  # a rerun counts once
    assert [(r["seed"], r["validation_loss"]) for r in found] == [
        (0, 21), (1, 21), (0, 22), (1, 22)
    ]  # fmt: skip
    assert {r["seconds"]["grid"] for r in found} == {3.0}
    said = "best of 3 by validation loss train.lr="
    assert [r["variant"] for r in found] == [f"{said}{lr}" for lr in (0.01, 0.01, 0.02, 0.02)]
    whole = searched(runs)  # who says nothing of what the grid is of has one a seed
    assert [r["variant"] for r in whole] == ["best of 6 by validation loss"] * 2
    assert not caplog.text
    found = searched(runs[:-1], RANK)  # seed 1 has no rank 4 at this rate
    assert [r["variant"].partition(" train")[0] for r in found] == [
        *["best of 3 by validation loss"] * 2,
        *["best of 2 by validation loss"] * 2,
    ]
    assert "method.rank=4" in caplog.text
