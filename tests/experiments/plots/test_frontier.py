"""The frontier's picture: what it says, what it marks, and that nothing lies over anything."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from experiments import figures
from experiments.plots import frontier, ranks
from tests.experiments.drawn import assert_nothing_cut, headline, result

COST = 192


def point(components: int, loss: float, difference: float, error: float) -> dict[str, Any]:
    return {
        "components": components,
        "parameters": components * COST,
        "loss": loss,
        "difference": difference,
        "error": error,
    }


def values(layers: int = 4, parts: int = 2, **changes: Any) -> dict[str, Any]:
    """ranks.json of a cut at 8 of all components, of rank 8 in every module."""
    names = [f"m.layer.{i}.attention.self.p{j}" for i in range(layers) for j in range(parts)]
    total = 8 * len(names)
    points = [
        point(0, 0.7, 0.5, 0.03),
        point(2, 0.5, 0.3, 0.02),
        point(8, 0.205, 0.005, 0.003),
        point(total // 2, 0.198, -0.002, 0.002),
        point(total, 0.2, 0.0, 0.0),
    ]
    found = {
        "title": "lora on sst2, tiny",
        "criterion": "singular",
        "ranks": {name: i % 3 for i, name in enumerate(names)},
        "parameters": 8 * COST,
        "whole_parameters": total * COST,
        "frontier": points,
        "even": {"1": point(len(names), 0.3, 0.1, 0.02), "2": point(2 * len(names), 0.2, 0, 0.01)},
        "delta": 0.01,
        "learned": True,
        "chosen": points[2],
        "examples": 300,
        "decided": {
            "words": f"these ranks are not decided: 9 of {total} components lie within noise",
            "decided": False,
            "near": 9,
            "components": total,
        },
    }
    return {**found, **changes}


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    """Marker -> the points of the lines that are drawn with it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in axes.get_lines():
        xy = zip(line.get_xdata(), line.get_ydata(), strict=True)
        found.setdefault(str(line.get_marker()), []).extend((float(x), float(y)) for x, y in xy)
    return found


def test_what_is_drawn(tmp_path: Path, kept: list[Figure]) -> None:
    assert frontier.draw(values(), tmp_path / "f.png")
    whole, near, cells = kept[0].axes[:3]
    assert "300" in whole.get_title(loc="left")
    drawn = lines(whole)
    assert {(8 * COST, 0.205), (64 * COST, 0.2)} <= set(drawn["o"])
    assert drawn["*"] == [(8 * COST, 0.205)]
    assert set(drawn["s"]) == {(8 * COST, 0.3), (16 * COST, 0.2)}
    zoomed = lines(near)
    assert zoomed["*"] == [(8 * COST, 0.005)]
    low, high = near.get_ylim()
    assert low < -0.004 < 0.01 < high < 0.1  # the choice's neighbourhood, not the whole fall
    deltas = [line.get_ydata()[0] for line in near.get_lines() if len(set(line.get_ydata())) == 1]
    assert pytest.approx(0.01) in deltas
    texts = {t.get_text() for t in cells.texts}
    assert texts == {"0", "1", "2"}
    title = kept[0]._suptitle.get_text()  # type: ignore[attr-defined]
    assert "1,536 of 12,288" in title
    assert "not decided: 9 of 64" in title


@pytest.mark.parametrize(("said", "errors"), [({"errors": 2.0}, 2), ({"errors": 0.0}, 1), ({}, 1)])
def test_the_band_is_that_of_the_difference(
    said: dict[str, float], errors: int, tmp_path: Path, kept: list[Figure]
) -> None:
    """As many standard errors as the choice asked for; older files do not say."""
    frontier.draw(values(**said), tmp_path / "f.png")
    for axes, loss in zip(kept[0].axes[:2], (0.205, 0.005), strict=True):
        (band,) = (c for c in axes.collections if isinstance(c, PolyCollection))
        (outline,) = band.get_paths()
        heights = [float(y) for x, y in outline.vertices if round(float(x)) == 8 * COST]
        assert max(heights) == pytest.approx(loss + errors * 0.003)
        assert min(heights) == pytest.approx(loss - errors * 0.003)


def test_nothing_is_not_on_the_scale(tmp_path: Path, kept: list[Figure]) -> None:
    frontier.draw(values(), tmp_path / "f.png")
    axes = kept[0].axes[0]
    kept[0].draw_without_rendering()
    labels = {t.get_text(): t.get_position()[0] for t in axes.get_xticklabels()}
    assert axes.get_xscale() == "log"
    assert 0 < labels["0"] < 2 * COST  # left of the smallest part
    assert (labels["0"], 0.7) in lines(axes)["o"]
    assert any(t.get_text() == "//" for t in axes.texts)
    assert all(float(t.replace(" k", "e3")) == x for t, x in labels.items() if t != "0")


def test_told_and_nothing_learned(tmp_path: Path, kept: list[Figure]) -> None:
    frontier.draw(values(parameters=20 * COST), tmp_path / "told.png")
    assert "as told" in kept[0]._suptitle.get_text()  # type: ignore[attr-defined]
    vertical = [line.get_xdata() for line in kept[0].axes[0].get_lines()]
    assert any(list(x) == [20 * COST, 20 * COST] for x in vertical)
    nothing = {"learned": False, "chosen": None, "ranks": None, "parameters": None}
    frontier.draw(values(**nothing, decided=None, delta=-0.1), tmp_path / "nothing.png")
    assert "nothing learned" in kept[1]._suptitle.get_text()  # type: ignore[attr-defined]
    assert len(kept[1].axes) == 1
    none = {"frontier": None, "even": {}, "delta": None, "learned": False, "chosen": None}
    assert frontier.draw(values(**none), tmp_path / "ranks.png")
    assert len(kept[2].axes) == 2  # the map and its colour bar
    assert not frontier.draw(values(**none, ranks=None), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(("layers", "parts"), [(4, 2), (12, 6), (32, 7)])
def test_no_text_lies_over_another(
    layers: int, parts: int, tmp_path: Path, kept: list[Figure]
) -> None:
    rows = {"random, mean of three draws": [point(4, 0.6, 0.4, 0.01), point(20, 0.3, 0.1, 0.01)]}
    title = "the adapter of somebody with a long name in a/rather/deep/folder/of/some/disk/or/other"
    found = values(layers, parts, rows=rows, title=title, parameters=11 * COST)
    frontier.draw(found, tmp_path / "f.png")
    (figure,) = kept
    assert_nothing_cut(figure)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    texts = [figure._suptitle]  # type: ignore[attr-defined]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]  # type: ignore[attr-defined]
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts]
    for part in figure.subfigs:
        for legend in part.legends:
            texts += legend.get_texts()
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_text() and t.get_visible()]
    for one, two in itertools.combinations(boxes, 2):
        inside = one.padded(-1.5)
        assert not (inside.width > 0 and inside.height > 0 and inside.overlaps(two.padded(-1.5)))


def test_figures_draws_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ranks.json").write_text(json.dumps(values()))
    drawn = figures.draw(tmp_path, result("lora"))
    assert tmp_path / "ranks" / "frontier.png" in drawn
    assert plt.imread(tmp_path / "ranks" / "frontier.png").std() > 0.05


def test_the_map_of_a_run_says_how_far_it_is_decided(tmp_path: Path, kept: list[Figure]) -> None:
    words = "these ranks are not decided: 6 of 64 components lie within noise of the cut"
    found = result("autolora", ranks={"layer.0.q": 2, "layer.1.q": 1}, decided={"words": words})
    ranks.draw(found, tmp_path / "r.png")
    assert "6 of 64" in headline(kept[0])
    assert_nothing_cut(kept[0])
