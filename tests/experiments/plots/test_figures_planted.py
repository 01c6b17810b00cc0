"""The figure of planted ranks: where its points and labels are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.plots import planted_recovery

NAMES = [f"layer{i}" for i in range(5)]
TRUE = dict(zip(NAMES, [1, 1, 1, 2, 3], strict=True))


def result(method: str, ranks: list[int]) -> dict[str, Any]:
    found = dict(zip(NAMES, ranks, strict=True))
    base = {"method": method, "task": "planted", "model": "planted", "true_ranks": TRUE}
    return {**base, "seed": 0, "ranks": found, "planted": {"spearman": 0.5}}


def labelled(figure: Figure) -> list[tuple[str, str]]:
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes if axes.get_visible()]


def test_points_are_moved_only_off_their_like(tmp_path: Path, kept: list[Figure]) -> None:
    planted_recovery.draw([result("one", [4, 4, 4, 4, 3])], tmp_path / "p.png")
    points = np.asarray(kept[0].axes[0].collections[0].get_offsets())
    assert points[3:].tolist() == [[2, 4], [3, 3]]
    together = points[:3]
    assert together.mean(0) == pytest.approx([1, 4])
    distances = np.linalg.norm(together[:, None] - together[None], axis=-1)[~np.eye(3, dtype=bool)]
    assert distances.min() > 0.1
    assert distances.max() < 0.5


def test_labels_stand_at_their_panels(tmp_path: Path, kept: list[Figure]) -> None:
    for count in (1, 7):
        runs = [result(f"method{i}", [1, 1, 1, 2, 3]) for i in range(count)]
        planted_recovery.draw(runs, tmp_path / "p.png")
    one, seven = kept
    assert labelled(one) == [("planted rank", "found rank")]
    one.draw_without_rendering()
    panel = one.axes[0].get_position()
    assert panel.width > 0.75, "the panel fills the picture"
    below, left = ("planted rank", ""), ("", "found rank")
    assert labelled(seven) == [left, ("", ""), *[below] * 3, ("planted rank", "found rank"), below]
