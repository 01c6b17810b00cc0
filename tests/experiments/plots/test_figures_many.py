"""The values of many methods in one picture: none is left out."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments import figures
from tests.experiments.drawn import assert_nothing_cut, result, write

NAMES = ["bert.layer.0.query", "bert.layer.1.query"]


def test_every_method_has_its_row_and_its_place_in_the_legend(
    tmp_path: Path, kept: list[Figure]
) -> None:
    results = []
    for i in range(11):
        folder = tmp_path / str(i)
        folder.mkdir()
        gates = {name: [0.5, 0.25 + i / 100, 0.0] for name in NAMES}
        write(folder, [{"stage": "train", "step": 3, "kind": "gates", "gates": gates}])
        long = "hypergradient=unrolled method.unroll_steps=4"
        results.append(result(f"method{i:02}", folder=str(folder), variant=long))
    figures.draw_several(results, figures.with_records(results), tmp_path / "out")
    (figure,) = (f for f in kept if f.get_suptitle().startswith("Final values"))
    top, *rows = figure.subfigs
    assert [row.get_suptitle().split()[0] for row in rows] == [r["method"] for r in results]
    (legend,) = top.legends
    assert len(legend.get_texts()) == 11
    assert_nothing_cut(figure)
    assert legend.get_window_extent().y0 > rows[0].bbox.y1, "not over the first row of maps"
