"""Figures of several runs: what is drawn, from their files alone."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments import figures
from experiments.plots import (
    comparison,
    cosine_compared,
    curves,
    planted_recovery,
    ranks_compared,
    values_compared,
    watched_compared,
)
from experiments.plots.style import BLUE
from tests.experiments.drawn import assert_nothing_cut, evaluations, headline, result, write

NAMES = [f"bert.layer.{layer}.{part}" for layer in range(3) for part in ("query", "value")]


def gate_line(values: list[float], names: list[str] = NAMES) -> dict[str, Any]:
    return {"stage": "train", "step": 30, "kind": "gates", "gates": dict.fromkeys(names, values)}


# ---- losses


def named(axes: Axes) -> dict[str, Any]:
    return {str(x.get_label()): x for x in axes.get_lines() if str(x.get_label())[0] != "_"}


def test_losses_are_means_over_seeds_with_their_spread(tmp_path: Path, kept: list[Figure]) -> None:
    runs = [
        (evaluations({10: 1.0 + seed, 20: 0.5 + seed}), result("lora", seed)) for seed in (0, 1)
    ]
    runs.append((evaluations({10: 3.0, 20: 2.0}), result("full")))
    assert curves.draw(runs, tmp_path / "l.png")
    train, test = kept[0].axes
    assert train.get_title(loc="left") == "sst2, tiny: training loss"
    lines = named(train)
    assert list(lines) == ["full", "lora"]
    assert list(lines["lora"].get_xdata()) == [10, 20]
    assert list(lines["lora"].get_ydata()) == [1.5, 1.0]
    assert list(named(test)["lora"].get_ydata()) == [2.5, 2.0]
    seeds = [list(x.get_ydata()) for x in train.get_lines() if x.get_label() == "_seed"]
    assert seeds == [[1.0, 0.5], [2.0, 1.5]]
    (bar,) = train.containers  # none for the single seed
    (ends,) = bar[2][0].get_segments()
    assert ends[:, 1] == pytest.approx([1 - np.sqrt(0.5), 1 + np.sqrt(0.5)])
    assert headline(kept[0]).startswith("Losses: full, lora on sst2, tiny, seeds 0, 1")
    assert train.get_ylim() == test.get_ylim()
    assert train.get_ylim()[1] > 4
    assert_nothing_cut(kept[0])


def test_beside_the_training_loss_is_what_was_evaluated(tmp_path: Path, kept: list[Figure]) -> None:
    lines = [{**line, "validation_loss": 9.0} for line in evaluations({10: 1.0, 20: 0.5})]
    without = [{k: v for k, v in line.items() if k != "test_loss"} for line in lines]
    alone = [{k: v for k, v in line.items() if k != "validation_loss"} for line in without]
    for number, (records, title) in enumerate(
        ((lines, "test loss"), (without, "validation loss"), (alone, None))
    ):
        assert curves.draw([(records, result("lora"))], tmp_path / f"{number}.png")
        titles = [axes.get_title(loc="left").partition(": ")[2] for axes in kept[number].axes]
        assert titles == ["training loss", *([title] if title else [])]


def test_steps_are_the_lower_levels_and_of_the_last_stage(
    tmp_path: Path, kept: list[Figure]
) -> None:
    upper = {"stage": "search", "step": 8, "kind": "train", "lower_loss": 1.0, "upper_loss": 1.0}
    lower = {"stage": "retrain", "step": 6, "kind": "train", "lower_loss": 1.0}
    retrained = evaluations({3: 2.0, 6: 1.0}, "retrain")
    two = [upper, *evaluations({8: 9.0}, "search"), lower, *retrained]
    engine = {"T1": 5, "steps": {"search": 8, "retrain": 6}}
    one = [{**upper, "stage": "train"}, *evaluations({5: 3.0, 10: 2.0})]
    runs = [
        (two, result("autolora", engine=engine)),
        (one, result("bilora", engine={"T1": 5, "steps": {"train": 10}})),
    ]
    assert curves.draw(runs, tmp_path / "l.png")
    lines = {name.replace("\n", " "): line for name, line in named(kept[0].axes[0]).items()}
    autolora = lines["autolora (retrain, after 40 steps of search)"]
    assert (list(autolora.get_xdata()), list(autolora.get_ydata())) == ([3, 6], [2.0, 1.0])
    assert list(lines["bilora"].get_xdata()) == [25, 50]


def test_losses_of_one_evaluation_are_rows_of_points(tmp_path: Path, kept: list[Figure]) -> None:
    runs = [(evaluations({10: 1.0 + seed}), result("lora", seed)) for seed in (0, 1)]
    assert curves.draw([*runs, (evaluations({20: 3.0}), result("full"))], tmp_path / "l.png")
    train, test = kept[0].axes
    assert [text.get_text() for text in train.get_yticklabels()] == ["full", "lora"]
    points = [
        np.asarray(c.get_offsets()).tolist() for c in test.collections if c.get_offsets().size
    ]
    assert points[:1] == [[[4.0, 0.0]]]
    assert [[2.0, 1.0], [3.0, 1.0]] in points
    assert train.get_xlim()[0] == 0
    assert not kept[0].legends
    assert_nothing_cut(kept[0])


def test_the_stage_that_was_evaluated_is_named(tmp_path: Path, kept: list[Figure]) -> None:
    """LoRA's cut is a stage without training: its curves are of the stage before."""
    engine = {"T1": None, "steps": {"train": 20, "cut": 0}}
    runs = [(evaluations({10: 2.0, 20: 1.0}), result("lora_cut", engine=engine))]
    assert curves.draw(runs, tmp_path / "l.png")
    assert list(named(kept[0].axes[0])) == ["lora_cut"]


def test_a_seed_that_stopped_early_keeps_its_last_loss(tmp_path: Path, kept: list[Figure]) -> None:
    runs = [
        (evaluations({10: 1.0, 20: 0.5}), result("lora", 0)),
        (evaluations({10: 3.0, 20: 1.5, 30: 0.5}), result("lora", 1)),
        (evaluations({10: float("nan")}), result("never", 0)),
    ]
    runs[2][0][0].update(train_loss=None, test_loss=None)
    assert curves.draw(runs, tmp_path / "l.png")
    line = kept[0].axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [10, 20, 30]
    assert list(line.get_ydata()) == [2.0, 1.0, 0.5]
    assert_nothing_cut(kept[0])


def test_no_losses(tmp_path: Path) -> None:
    assert not curves.draw([([], result("lora"))], tmp_path / "l.png")
    assert not (tmp_path / "l.png").exists()


# ---- values


def test_values_side_by_side(tmp_path: Path, kept: list[Figure]) -> None:
    runs = [
        ([gate_line([0.2, 0.3, 0.1, 0.4])], result("bilora", ranks=dict.fromkeys(NAMES, 4))),
        ([gate_line([-2.0, 0.0, 6.0], NAMES[:1])], result("adalora")),
        ([], result("lora")),
    ]
    assert values_compared.draw(runs, tmp_path / "v.png")
    curves_of, maps = kept[0].axes[0], [axes for axes in kept[0].axes if len(axes.images) == 2]
    shapes = [axes.images[1].get_array().shape for axes in maps]
    assert shapes == [(3, 4), (3, 4), (1, 3)]
    bilora, adalora = curves_of.patches
    assert (bilora.get_label(), adalora.get_label()) == ("bilora", "adalora\n33 % exactly 0")
    # Over its own mean magnitude, the largest first: 0.1 to 0.4 over 0.25, and -2, 0, 6 over 4.
    assert bilora.get_data().values == pytest.approx(np.repeat([1.6, 1.2, 0.8, 0.4], len(NAMES)))
    assert adalora.get_data().values == pytest.approx([1.5, 0.0, -0.5])
    assert adalora.get_data().edges == pytest.approx([0, 100 / 3, 200 / 3, 100])
    assert headline(kept[0]) == "Final values: adalora, bilora on sst2, tiny, seed 0"
    assert_nothing_cut(kept[0])


def test_one_run_has_nothing_beside_it(tmp_path: Path) -> None:
    runs = [([gate_line([0.5, 0.5])], result("bilora")), ([], result("lora"))]
    assert not values_compared.draw(runs, tmp_path / "v.png")


# ---- cosine


def update(names: list[str], turn: float) -> dict[str, dict[str, float]]:
    """Weights turned by so many degrees."""
    return {name: {"cosine": np.cos(np.radians(turn)), "relative_norm": 0.1} for name in names}


def test_cosines_by_part_and_method(tmp_path: Path, kept: list[Figure]) -> None:
    values = [name for name in NAMES if "value" in name]
    results = [
        result("lora", 0, update=update(NAMES, 10)),
        result("lora", 1, update=update(NAMES, 30)),
        result("values", update=update(values[1:], 5)),
        result("prompt"),
    ]
    assert cosine_compared.draw(results, tmp_path / "c.png")
    query, value = kept[0].axes
    assert [axes.get_title(loc="left") for axes in (query, value)] == ["query", "value"]
    (lora,) = query.get_lines()
    assert list(lora.get_xdata()) == [0, 1, 2]
    assert lora.get_ydata() == pytest.approx([20] * 3)
    heights = np.array(query.collections[0].get_segments())[..., 1]
    assert (heights.min(), heights.max()) == pytest.approx((10, 30))
    assert list(value.get_lines()[1].get_xdata()) == [1, 2]
    (legend,) = kept[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["lora", "values"]
    assert_nothing_cut(kept[0])


def test_no_cosines(tmp_path: Path) -> None:
    assert not cosine_compared.draw([result("prompt")], tmp_path / "c.png")


# ---- ranks


def test_ranks_of_methods_that_chose_them(tmp_path: Path, kept: list[Figure]) -> None:
    chosen = {name: i for i, name in enumerate(NAMES)}
    results = [
        {**result("autolora", 1, ranks=chosen), "decided": {"decided": False}},
        {**result("autolora", 0, ranks={**chosen, NAMES[1]: 7}), "decided": {"decided": True}},
        {
            **result("adalora", 0, ranks={name: chosen[name] for name in NAMES[::2]}),
            "decided": {"decided": None},
        },
        result("lora", 0, ranks=dict.fromkeys(NAMES, 4)),
        result("full"),
    ]
    assert ranks_compared.draw(results, tmp_path / "r.png")
    query, value, *_ = kept[0].axes
    labels = [text.get_text() for text in query.get_yticklabels()]
    assert labels == [
        "adalora, seed 0\nnot known how decided",
        "autolora, seed 0",
        "autolora, seed 1\nnot decided",
    ]
    nan = np.nan
    table = query.images[0].get_array().filled(nan)
    np.testing.assert_equal(table, [[0, 2, 4], [0, 2, 4], [0, 2, 4]])
    table = value.images[0].get_array().filled(nan)
    np.testing.assert_equal(table, [[nan, nan, nan], [7, 3, 5], [1, 3, 5]])
    assert_nothing_cut(kept[0])
    assert not ranks_compared.draw(results[1:2] + results[3:], tmp_path / "n.png")


# ---- planted ranks


def test_planted_against_found(tmp_path: Path, kept: list[Figure]) -> None:
    true = {name: 1 + i for i, name in enumerate(NAMES)}
    results = [
        result("good", 0, ranks=true, true_ranks=true, planted={"spearman": 1.0}),
        result("good", 1, ranks={**true, NAMES[0]: 3}, true_ranks=true, planted={"spearman": 0.5}),
        result("lora", ranks=dict.fromkeys(NAMES, 4), true_ranks=true, planted={"spearman": None}),
        result("full", true_ranks=true),
    ]
    assert planted_recovery.draw(results, tmp_path / "p.png")
    good, lora = (axes for axes in kept[0].axes if axes.get_visible())
    assert good.get_title(loc="left") == "good\nSpearman 0.75, 92 % exact"  # 11 of 12
    assert lora.get_title(loc="left") == "lora\nSpearman undefined, 17 % exact"
    points = good.collections[0].get_offsets()
    wanted = [(rank, rank) for rank in true.values()] * 2
    wanted[len(NAMES)] = (1, 3)
    assert np.abs(points - np.array(wanted)).max() < 0.25
    assert len({tuple(point) for point in points.tolist()}) == 12  # none hides another
    assert good.get_xlim() == good.get_ylim()
    assert_nothing_cut(kept[0])


def test_nothing_was_planted(tmp_path: Path) -> None:
    assert not planted_recovery.draw([result("lora", ranks={"a": 1})], tmp_path / "p.png")


# ---- comparison


def test_many_methods_with_long_names(tmp_path: Path, kept: list[Figure]) -> None:
    long = "hypergradient=unrolled hypergradient.depth=4 method.unroll_steps=4"
    results = [result(f"method{i:02}", seed, variant=long) for i in range(25) for seed in (0, 1)]
    results += [result("full", adapter_parameters=10**8)]
    comparison.draw(results, tmp_path / "c.png")
    score, _, parameters, _ = kept[0].axes
    labels = [text.get_text() for text in score.get_yticklabels()]
    assert len(labels) == 26
    assert all(len(line) <= 46 for label in labels for line in label.split("\n"))
    assert labels[1].replace("\n", " ") == f"method00 {long}"
    assert len(score.containers) == 26
    colours = {to_hex(container.lines[0].get_color()) for container in score.containers}
    assert colours == {BLUE.lower()}
    assert parameters.get_xscale() == "log"
    assert score.get_xscale() == "linear"
    assert_nothing_cut(kept[0])
    boxes = [text.get_window_extent() for text in score.get_yticklabels()]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))


def test_methods_differ_by_task(tmp_path: Path, kept: list[Figure]) -> None:
    results = [result("lora"), result("adalora"), result("lora", task="mrpc", metrics={"f1": 1.0})]
    results[2]["primary_metric"] = "f1"
    comparison.draw(results, tmp_path / "c.png")
    first, second = kept[0].axes[0], kept[0].axes[4]
    assert [text.get_text() for text in first.get_yticklabels()] == ["lora"]
    assert [text.get_text() for text in second.get_yticklabels()] == ["adalora", "lora"]
    assert first.get_xlabel() == "test f1 (axis not from 0)"


def test_runs_that_are_scored_by_different_metrics(tmp_path: Path, kept: list[Figure]) -> None:
    """A run without the first one's metric has no point in that panel, and all others."""
    other = result("lora", metrics={"f1": 0.7}, primary_metric="f1")
    comparison.draw([result("adalora"), other], tmp_path / "c.png")
    score, gap, *_ = kept[0].axes
    assert score.get_xlabel() == "test accuracy (axis not from 0)"
    points = [np.asarray(points.get_offsets())[:, 0] for points in score.collections[1::2]]
    np.testing.assert_equal(points, [[0.9], [np.nan]])
    points = [np.asarray(points.get_offsets())[:, 0] for points in gap.collections[1::2]]
    np.testing.assert_allclose(points, [[0.2], [0.2]])
    assert_nothing_cut(kept[0])


# ---- all of them


def test_all_figures_of_several_runs(tmp_path: Path) -> None:
    results = []
    for method in ("bilora", "adalora"):
        for seed in (0, 1):
            folder = tmp_path / f"{method}{seed}"
            folder.mkdir()
            lines = [gate_line([0.5, 0.5, seed]), *evaluations({10: 1.0})]
            write(folder, lines)
            ranks = {name: i for i, name in enumerate(NAMES)}
            results.append(result(method, seed, ranks=ranks, true_ranks=ranks, folder=str(folder)))
            results[-1]["update"] = update(NAMES, 1e-3)
    results.append(result("without a folder"))
    drawn = figures.draw_several(results, figures.with_records(results), tmp_path)
    assert [path.name for path in drawn] == [
        "comparison.png",
        "losses_compared.png",
        "cosine_compared.png",
        "planted.png",
        "values_sst2_tiny.png",
        "ranks_sst2_tiny.png",
    ]
    assert all(path.stat().st_size > 5000 for path in drawn)
    assert [
        p.name
        for p in figures.draw_several(results[-1:], figures.with_records(results[-1:]), tmp_path)
    ] == ["comparison.png"]


@pytest.mark.usefixtures("kept")
def test_a_model_that_is_a_path_makes_no_folders(tmp_path: Path) -> None:
    ranks = {name: i for i, name in enumerate(NAMES)}
    for model, expected in (("../x/gpt2", "ranks_sst2_x_gpt2.png"), ("a/b", "ranks_sst2_a_b.png")):
        named = [{**result("autolora", seed, ranks=ranks), "model": model} for seed in (0, 1)]
        drawn = figures.draw_several(named, figures.with_records(named), tmp_path / "out")
        assert expected in [path.name for path in drawn]
        assert {path.parent for path in drawn} == {tmp_path / "out"}


# ---- numbers watched over the steps


def watch_lines(name: str, values: list[float], **other: float) -> list[dict[str, Any]]:
    return [
        {"stage": "train", "step": 10 * (i + 1), "kind": "watch", name: value, **other}
        for i, value in enumerate(values)
    ]


def test_watched_numbers_are_lines_a_method_in_a_panel_a_task(
    tmp_path: Path, kept: list[Figure]
) -> None:
    runs = [
        (watch_lines("orthogonality", [4.0, 2.0]), result("gamma1 = 0.1")),
        (watch_lines("orthogonality", [2.0, 1.0]), result("gamma1 = 0.1", 1)),
        (watch_lines("orthogonality", [4.0, 0.1]), result("gamma1 = 0.3")),
        (watch_lines("orthogonality", [4.0, 0.5]), result("gamma1 = 0.3", task="cola")),
        (watch_lines("density", [0.9, 0.5]), result("salora")),  # it watches something else
    ]
    assert watched_compared.draw(runs, "orthogonality", tmp_path / "o.png")
    cola, sst2 = kept[0].axes
    assert cola.get_title(loc="left") == "cola, tiny"
    assert [list(line.get_ydata()) for line in sst2.get_lines()] == [[3.0, 1.5], [4.0, 0.1]]
    assert sst2.get_yscale() == "log"
    assert_nothing_cut(kept[0])
    one = watch_lines("density", [0.9, 0.5], target_density=0.5)
    assert not watched_compared.draw([(one, result("salora"))], "density", tmp_path / "d.png")
    two = [(one, result("salora")), (one, result("salora", task="cola"))]
    assert watched_compared.draw(two, "density", tmp_path / "d.png")
    (line, target) = kept[-1].axes[0].get_lines()
    assert list(line.get_ydata()) == [0.9, 0.5]
    assert list(target.get_ydata()) == [0.5, 0.5]


def test_steady_numbers_of_several_runs_do_not_fill_the_picture(
    tmp_path: Path, kept: list[Figure]
) -> None:
    for name in watched_compared.LABELS:
        runs = [
            (watch_lines(name, [0.5, 0.501 + seed / 1000]), result("a", seed)) for seed in (0, 1)
        ]
        assert watched_compared.draw(runs, name, tmp_path / "w.png")
    results = [result("lora", seed, update=update(NAMES, 10 + seed / 1e3)) for seed in (0, 1)]
    assert cosine_compared.draw(results, tmp_path / "c.png")
    orthogonality, density, cosine = (figure.axes[0].get_ylim() for figure in kept)
    assert orthogonality[1] >= 9.99 * orthogonality[0]
    assert density[0] <= 0
    assert cosine[0] == 0


# ---- names of files


def test_no_figure_takes_the_place_of_another() -> None:
    tasks = ["classification (да, нет)", "classification (好, 坏)", "sst2"]
    names = figures.drawings_of_several([result("lora", task=task) for task in tasks], [])
    assert [name for name in names if name.startswith("ranks_")] == [
        "ranks_classification_tiny_1.png",
        "ranks_classification_tiny_2.png",
        "ranks_sst2_tiny.png",
    ]
