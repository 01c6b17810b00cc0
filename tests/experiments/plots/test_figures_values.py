"""Figures of one run's values, watched numbers and weights: what is drawn, from files alone."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments import figures
from experiments.plots import cosine, gates, heat, values, watched
from experiments.plots.records import final_values, lower_steps_each
from experiments.plots.style import look
from tests.experiments.drawn import assert_nothing_cut, headline, result, write

SIX = [f"attention.self.{part}" for part in ("query", "key", "value")]
SIX += ["attention.output.dense", "intermediate.dense", "output.dense"]


bilora = partial(result, "bilora", 3)


def names(layers: int, parts: list[str]) -> list[str]:
    return [f"bert.encoder.layer.{layer}.{part}" for layer in range(layers) for part in parts]


def gate_lines(last: dict[str, list[Any]], stage: str = "train") -> list[dict[str, Any]]:
    start = {name: [0.5] * len(row) for name, row in last.items()}
    return [
        {"stage": stage, "step": step, "kind": "gates", "gates": rows}
        for step, rows in ((0, start), (10, last))
    ]


def watch_lines(stage: str = "train", **numbers: list[float | None]) -> list[dict[str, Any]]:
    length = len(next(iter(numbers.values())))
    return [
        {"stage": stage, "step": 10 * i, "kind": "watch", "seconds": 1.0}
        | {name: series[i] for name, series in numbers.items()}
        for i in range(length)
    ]


def maps(figure: Figure) -> list[Any]:
    """The heat maps' axes."""
    return [axes for axes in figure.axes if len(axes.images) == 2]


# ---- values


def test_the_last_line_of_the_last_stage_with_values_is_final() -> None:
    (name,) = names(1, ["query"])
    lines = [*gate_lines({name: [0.9, 0.1]}, "search"), *gate_lines({name: [0.2, 0.8]}, "polish")]
    lines.append({"stage": "retrain", "step": 3, "kind": "train", "lower_loss": 1.0})
    assert final_values(lines)[name].tolist() == [0.2, 0.8]
    assert final_values(lines[-1:]) == {}
    kept = {"stage": "polish", "step": 0, "kind": "kept"}
    steps = [{**lines[3], "step": step, "gates": {name: [0.1 * step, 0.5]}} for step in (0, 2, 4)]
    for step, value in ((0, 0.0), (3, 0.2), (4, 0.4), (9, 0.4)):  # of the best weights' step
        found = final_values([lines[0], *steps, {**kept, "step": step}])
        assert found[name].tolist() == [value, 0.5]
    assert final_values([*steps, {**kept, "stage": "search"}])[name].tolist() == [0.4, 0.5]


def test_values_sorted_in_their_cells_and_counted_in_the_bars(
    tmp_path: Path, kept: list[Figure]
) -> None:
    a, b, c, d = names(2, ["query", "value"])
    rows = {a: [0.1, 0.7, 0.0, 0.2], b: [0.3, 0.3, 0.2, 0.2], c: [0.0, 0.0, 0.0, 1.0], d: [1] * 4}
    ranks = {a: 3, b: 2, c: 1, d: 4}
    assert values.draw(gate_lines(rows), bilora(ranks=ranks), tmp_path / "v.png")
    (figure,) = kept
    query, value = maps(figure)
    assert [axes.get_title(loc="center") for axes in (query, value)] == ["query", "value"]
    zeros, others = (image.get_array() for image in query.images)
    assert others.filled(-1).tolist() == [[0.7, 0.2, 0.1, -1], [1, -1, -1, -1]]
    assert (~np.ma.getmaskarray(zeros)).tolist() == [[False] * 3 + [True], [False] + [True] * 3]
    # The rank is a black line behind the last component kept; a full rank needs none.
    (line_a,), (line_c,) = (part.get_segments() for part in query.collections)
    assert line_a.tolist() == [[2.5, -0.5], [2.5, 0.5]]
    assert line_c.tolist() == [[0.5, 0.5], [0.5, 1.5]]
    assert len(value.collections) == 1
    bars = figure.axes[0]
    assert sum(patch.get_height() for patch in bars.patches) == 12
    assert "25 % exactly 0" in bars.get_title(loc="left")
    assert not bars.get_lines()  # these are no softmax values
    assert_nothing_cut(figure)


def test_softmax_values_are_held_against_one_over_k(tmp_path: Path, kept: list[Figure]) -> None:
    rows = {name: [0.4, 0.3, 0.2, 0.1] for name in names(2, ["query"])}
    values.draw(gate_lines(rows), bilora(), tmp_path / "v.png")
    (line,) = kept[0].axes[0].get_lines()
    assert line.get_xdata() == [0.25, 0.25]
    assert line.get_label() == "1/k, k = 4"


def test_negative_values_get_two_sided_colours(tmp_path: Path, kept: list[Figure]) -> None:
    (name,) = names(1, ["query"])
    values.draw(gate_lines({name: [0.5, -2.0, 1.0]}), bilora(), tmp_path / "v.png")
    image = maps(kept[0])[0].images[1]
    assert image.get_array().tolist() == [[-2.0, 1.0, 0.5]]  # by magnitude
    assert (image.norm.vmin, image.norm.vmax) == (-2.0, 2.0)
    colour_map, norm = heat.colours(np.array([1.0, 3.0]))
    assert colour_map.name == "viridis"
    assert (norm.vmin, norm.vmax) == (0.0, 3.0)  # what differs little looks alike


def test_nulls_are_white_and_told(tmp_path: Path, kept: list[Figure]) -> None:
    (name,) = names(1, ["query"])
    values.draw(gate_lines({name: [None, 0.25, 0.5]}), bilora(), tmp_path / "v.png")
    array = maps(kept[0])[0].images[1].get_array()
    assert array.filled(-1).tolist() == [[0.5, 0.25, -1]]
    assert "1 not finite" in kept[0].axes[0].get_title(loc="left")
    assert_nothing_cut(kept[0])


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, 1.0], [None, None]])
def test_values_all_alike(tmp_path: Path, kept: list[Figure], row: list[Any]) -> None:
    lines = gate_lines(dict.fromkeys(names(2, ["query"]), row))
    assert values.draw(lines, bilora(), tmp_path / "v.png")
    assert gates.draw(lines, bilora(), tmp_path / "g.png")
    assert len(maps(kept[0])) == 1
    for figure in kept:
        assert_nothing_cut(figure)


@pytest.mark.parametrize("layers", [1, 24])
def test_six_parts_of_many_layers(tmp_path: Path, kept: list[Figure], layers: int) -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.random(8).tolist() for name in names(layers, SIX)}
    ranks = {name: int(rng.integers(0, 9)) for name in rows}
    assert values.draw(gate_lines(rows), bilora(ranks=ranks), tmp_path / "v.png")
    panels = maps(kept[0])
    assert [axes.images[1].get_array().shape for axes in panels] == [(layers, 8)] * 6
    assert panels[3].get_title(loc="center") == "attention.\noutput.dense"
    assert_nothing_cut(kept[0])


def test_modules_of_other_rank_leave_their_row_short(tmp_path: Path, kept: list[Figure]) -> None:
    a, b = names(2, ["query"])
    values.draw(gate_lines({a: [0.3, 0.7], b: [0.5]}), bilora(), tmp_path / "v.png")
    assert maps(kept[0])[0].images[1].get_array().filled(-1).tolist() == [[0.7, 0.3], [0.5, -1]]
    assert_nothing_cut(kept[0])


def test_gates_over_steps_know_their_kind(tmp_path: Path, kept: list[Figure]) -> None:
    (name,) = names(1, ["query"])
    gates.draw(gate_lines({name: [0.75, 0.25]}, "search"), bilora(), tmp_path / "a.png")
    gates.draw(gate_lines({name: [-0.5, None]}), bilora(), tmp_path / "b.png")
    dashed = [
        [line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
        for figure in kept
    ]
    assert [len(lines) for lines in dashed] == [1, 0]  # 1/k, for softmax values alone
    assert np.isnan(kept[1].axes[0].get_lines()[0].get_ydata()).tolist() == [False, True]


def test_gates_that_did_not_choose_are_not_called_kept(tmp_path: Path, kept: list[Figure]) -> None:
    """They were folded into the factors before the cut."""
    (name,) = names(1, ["query"])
    lines = gate_lines({name: [0.8, 1.1, 1.0]})
    for cut in (None, "singular"):
        result = bilora(ranks={name: 1}, cut=cut)
        gates.draw(lines, result, tmp_path / "g.png")
        values.draw(lines, result, tmp_path / "v.png")
    gate_pictures, value_pictures = kept[::2], kept[1::2]
    colours = [{line.get_color() for line in f.axes[0].get_lines()} for f in gate_pictures]
    assert [len(found) for found in colours] == [2, 1]
    legends = [[t.get_text() for t in f.legends[0].get_texts()] for f in gate_pictures]
    assert legends == [["kept", "dropped"], ["gate of a component"]]
    assert ["black line" in str(f.subfigs[1].get_supxlabel()) for f in value_pictures] == [
        True,
        False,
    ]


def softmax_lines(spread: float) -> list[dict[str, Any]]:
    rows = {n: [0.25 + spread, 0.25, 0.25, 0.25 - spread] for n in names(2, ["query"])}
    return [{**line, "gates": rows} for line in gate_lines(rows)]


def test_noise_in_gates_looks_as_small_as_it_is(tmp_path: Path, kept: list[Figure]) -> None:
    for i, spread in enumerate((0.001, 0.2)):
        gates.draw(softmax_lines(spread), bilora(), tmp_path / f"g{i}.png")
    gates.draw(gate_lines({names(1, ["query"])[0]: [-0.5, 0.2]}), bilora(), tmp_path / "n.png")
    noise, spread_out, negative = (figure.axes[0].get_ylim() for figure in kept)
    assert noise[0] == spread_out[0] == 0
    assert negative[0] < -0.5
    titles = [headline(figure) for figure in kept]
    assert titles[0].endswith("all values lie between 0.249 and 0.251")
    assert not any("lie between" in title for title in titles[1:])
    for figure in kept:
        assert_nothing_cut(figure)


def test_noise_in_final_values_looks_as_small_as_it_is(tmp_path: Path, kept: list[Figure]) -> None:
    values.draw(softmax_lines(0.001), bilora(), tmp_path / "v.png")
    (figure,) = kept
    bars = figure.axes[0]
    assert bars.get_xlim()[0] <= 0
    assert [patch.get_height() for patch in bars.patches if patch.get_height()] == [8]
    assert "from 0.249 to 0.251" in bars.get_title(loc="left")
    assert maps(figure)[0].images[1].norm.vmin == 0


# ---- watched numbers


def test_orthogonality_on_a_logarithmic_axis(tmp_path: Path, kept: list[Figure]) -> None:
    lines = watch_lines(orthogonality=[8.0, None, 0.5, 0.001])
    assert watched.draw_orthogonality(lines, bilora(), tmp_path / "o.png")
    axes = kept[0].axes[0]
    assert axes.get_yscale() == "log"
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [0, 10, 20, 30]
    np.testing.assert_equal(line.get_ydata(), [8.0, np.nan, 0.5, 0.001])
    assert axes.texts[0].get_text() == "0.001"
    assert_nothing_cut(kept[0])


@pytest.mark.parametrize("series", [[None, None], [0.0, 0.0]])
def test_nothing_to_draw_on_a_logarithmic_axis(tmp_path: Path, series: list[Any]) -> None:
    path = tmp_path / "o.png"
    assert not watched.draw_orthogonality(watch_lines(orthogonality=series), bilora(), path)
    assert not path.exists()


def test_density_with_target_and_multiplier(tmp_path: Path, kept: list[Figure]) -> None:
    lines = watch_lines(density=[0.9, 0.6, 0.502], multiplier=[0.0, 1.0, 3.0])
    lines = [{**line, "target_density": 0.5} for line in lines]
    assert watched.draw_density(lines, bilora(), tmp_path / "d.png")
    density, multiplier = kept[0].axes
    assert list(density.get_lines()[0].get_ydata()) == [0.9, 0.6, 0.502]
    assert density.get_lines()[1].get_linestyle() == "--"
    assert list(density.get_lines()[1].get_ydata()) == [0.5] * 3
    assert list(multiplier.get_lines()[0].get_ydata()) == [0.0, 1.0, 3.0]
    assert kept[0].get_suptitle().endswith("0.502 at the end")
    assert_nothing_cut(kept[0])


def test_density_without_multiplier_over_two_stages(tmp_path: Path, kept: list[Figure]) -> None:
    lines = [*watch_lines("warm", density=[0.9, 0.8]), *watch_lines(density=[0.8, 0.7])]
    assert watched.draw_density(lines, bilora(), tmp_path / "d.png")
    (axes,) = kept[0].axes
    assert list(axes.get_lines()[0].get_xdata()) == [0, 10, 10, 20]  # one after the other
    assert [text.get_text().strip() for text in axes.texts] == ["warm", "train"]
    assert not watched.draw_density(watch_lines(multiplier=[1.0]), bilora(), tmp_path / "n.png")


def test_other_watched_numbers_have_a_panel_each(tmp_path: Path, kept: list[Figure]) -> None:
    lines = watch_lines(orthogonality=[1.0, 0.5], budget=[96, 48], magnitude_change=[0.0, 0.1])
    assert watched.draw_others(lines, bilora(), tmp_path / "w.png")
    budget, change = kept[0].axes
    assert (budget.get_ylabel(), change.get_ylabel()) == ("budget", "magnitude change")
    assert list(budget.get_lines()[0].get_ydata()) == [96, 48]
    assert budget.get_ylim()[0] <= 0
    assert not watched.draw_others(watch_lines(density=[1.0]), bilora(), tmp_path / "n.png")


def test_steady_numbers_do_not_fill_the_picture(tmp_path: Path, kept: list[Figure]) -> None:
    lines = watch_lines(orthogonality=[0.5, 0.501], density=[0.5, 0.501], multiplier=[2.0, 2.01])
    assert watched.draw_orthogonality(lines, bilora(), tmp_path / "o.png")
    assert watched.draw_density(lines, bilora(), tmp_path / "d.png")
    update = {name: {"cosine": 0.999, "relative_norm": 0.1} for name in names(2, ["query"])}
    update[names(1, ["query"])[0]] = {"cosine": 0.99899, "relative_norm": 0.101}
    assert cosine.draw(bilora(update=update), tmp_path / "c.png")
    limits = [axes.get_ylim() for figure in kept for axes in figure.axes]
    residual, density, multiplier, turn, norm = limits
    assert density[0] <= 0
    assert multiplier[0] <= 0
    assert residual[1] >= 9.99 * residual[0]
    assert turn[0] == norm[0] == 0
    for figure in kept:
        assert_nothing_cut(figure)


# ---- cosine


def test_cosine_by_layer_and_part(tmp_path: Path, kept: list[Figure]) -> None:
    update = {
        name: {"cosine": math.cos(math.radians(10 * (i + 1))), "relative_norm": 0.01 * (i + 1)}
        for i, name in enumerate(names(2, ["query", "value"]))
    }
    assert cosine.draw(bilora(update=update), tmp_path / "c.png")
    turn, norm = kept[0].axes
    assert (turn.get_ylim()[0], norm.get_ylim()[0]) == (0, 0)
    assert "degrees" in turn.get_title(loc="left")
    assert "%" in norm.get_title(loc="left")
    query, value = turn.get_lines()
    assert (query.get_label(), value.get_label()) == ("query", "value")
    assert list(query.get_xdata()) == [0, 1]
    assert query.get_ydata() == pytest.approx([10, 30], rel=1e-9)
    assert value.get_ydata() == pytest.approx([20, 40], rel=1e-9)
    assert norm.get_lines()[1].get_ydata() == pytest.approx([2, 4])
    assert_nothing_cut(kept[0])


def test_cosine_of_one_layer_has_one_tick(tmp_path: Path, kept: list[Figure]) -> None:
    update = {"model.layers.0.q_proj": {"cosine": 0.999, "relative_norm": 0.1}}
    assert cosine.draw(bilora(update=update), tmp_path / "c.png")
    axes = kept[0].axes[0]
    ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
    assert ticks == [0]


def test_a_weight_left_alone_is_turned_by_nothing(tmp_path: Path, kept: list[Figure]) -> None:
    a, b, c = names(3, ["query"])
    update = {
        a: {"cosine": 1.0 + 1e-15, "relative_norm": 1e-9},  # by rounding
        b: {"cosine": None, "relative_norm": None},
        c: {"cosine": 0.99, "relative_norm": 0.1},
    }
    assert cosine.draw(bilora(update=update), tmp_path / "c.png")
    turn, norm = kept[0].axes
    assert list(turn.get_lines()[0].get_xdata()) == [0, 2]
    assert turn.get_lines()[0].get_ydata()[0] == 0
    assert list(norm.get_lines()[0].get_xdata()) == [0, 2]
    assert_nothing_cut(kept[0])
    assert not cosine.draw(bilora(update=None), tmp_path / "n.png")
    assert not cosine.draw(bilora(update={b: update[b]}), tmp_path / "n.png")


# ---- all of a run, and what they share


def test_a_run_that_has_everything(tmp_path: Path) -> None:
    found = names(2, ["query"])
    lines: list[dict[str, Any]] = [
        *gate_lines({name: [0.5, 0.0] for name in found}),
        *watch_lines(orthogonality=[1.0, 0.1], density=[0.9, 0.5], budget=[4, 2]),
        {"stage": "train", "step": 10, "kind": "validation", "train_loss": 0.2, "test_loss": 0.4},
    ]
    write(tmp_path, lines)
    everything = result(
        "bilora",
        3,
        ranks=dict.fromkeys(found, 1),
        update={name: {"cosine": 0.99, "relative_norm": 0.1} for name in found},
        metrics={"accuracy": 0.9},
        primary_metric="accuracy",
        adapter_parameters=10,
        train_loss=0.2,
        test_loss=0.4,
    )
    kinds = "losses ranks gates values orthogonality density watched cosine"
    drawn = figures.draw(tmp_path, everything)
    assert drawn == [tmp_path / "figures" / f"{kind}.png" for kind in kinds.split()]
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_values_alone_make_no_figure_of_losses(tmp_path: Path) -> None:
    write(tmp_path, watch_lines(orthogonality=[1.0]))
    drawn = figures.draw(tmp_path, bilora())
    assert [path.name for path in drawn] == ["orthogonality.png"]


def test_28_lines_can_be_told_apart() -> None:
    looks = [look(i) for i in range(28)]
    assert len({(to_hex(x["color"]), x["linestyle"]) for x in looks}) == 28


@pytest.mark.parametrize(
    ("T1", "steps", "keys", "expected"),
    [
        (None, {"train": 9}, ["lower_loss"], 1),
        (4, {"train": 9}, [], 4),  # too short for a line of losses
        (4, {"search": 9, "retrain": 9}, ["lower_loss"], 1),
        (4, {"search": 9, "retrain": 9}, ["lower_loss", "upper_loss"], 4),
    ],
)
def test_lower_steps_in_a_global_step(
    T1: int | None, steps: dict[str, int], keys: list[str], expected: int
) -> None:
    stage = list(steps)[-1]
    lines = [{"stage": stage, "kind": "train", "step": 5, **dict.fromkeys(keys, 0.5)}]
    assert lower_steps_each(lines, stage, {"engine": {"T1": T1, "steps": steps}}) == expected
