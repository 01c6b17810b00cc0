"""Figures: what is drawn where, from files alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments import figures
from experiments.metrics.module_names import places
from experiments.plots import comparison
from experiments.plots.modules import grid
from tests.experiments.drawn import assert_nothing_cut, headline, write

NAMES = [
    f"bert.encoder.layer.{layer}.attention.self.{part}"
    for layer in range(3)
    for part in ("query", "value")
]
RESULT: dict[str, Any] = {
    "method": "autolora",
    "task": "demo",
    "model": "demo",
    "seed": 0,
    "metrics": {"accuracy": 0.75},
    "primary_metric": "accuracy",
    "ranks": {name: i % 4 for i, name in enumerate(NAMES)},
    "adapter_parameters": 1234,
    "train_loss": 0.25,
    "test_loss": 0.75,
    "seconds": {"search": 2.0},
    "validation_loss": None,
    "trainable_parameters": 2468,
    "head_parameters": 12,
    "examples_seen": {"search": 640},
    "processor_seconds": {"search": 2.0},
    "peak_memory_mib": 1.0,
}


def records() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for stage in ("search", "retrain"):
        for step in range(1, 21):
            lines.append({"stage": stage, "step": step, "kind": "train", "lower_loss": 1 / step})
        for step in (10, 20):
            losses = {"train_loss": 5 / step, "test_loss": 5 / step + 0.5}
            if stage == "search":
                losses["validation_loss"] = 5 / step + 0.4
            lines.append({"stage": stage, "step": step, "kind": "validation", **losses})
    for step in range(21):
        values = {name: [0.25, 0.25 + step / 100, 0.25 - step / 100, 0.25] for name in NAMES}
        lines.append({"stage": "search", "step": step, "kind": "gates", "gates": values})
    return lines


def draw(folder: Path, lines: list[dict[str, Any]], result: dict[str, Any]) -> list[str]:
    write(folder, lines)
    return [path.name for path in figures.draw(folder, result)]


def test_what_there_is_data_for(tmp_path: Path) -> None:
    names = ["losses.png", "ranks.png", "gates.png", "values.png"]
    assert draw(tmp_path, records(), RESULT) == names
    for path in (tmp_path / "figures").iterdir():
        image = plt.imread(path)
        assert image.shape[0] > 200
        assert image.std() > 0.05  # not an empty page


def test_losses(tmp_path: Path, kept: list[Figure]) -> None:
    draw(tmp_path, records(), RESULT)
    search, retrain = kept[0].axes
    assert [axes.get_title(loc="left") for axes in (search, retrain)] == ["search", "retrain"]
    assert search.get_xlabel() == "step"
    assert search.get_ylabel().startswith("loss")
    lines = {line.get_label(): line for line in search.get_lines()}
    assert list(lines["validation"].get_xdata()) == [10, 20]
    assert list(lines["test"].get_ydata()) == [1.0, 0.75]
    assert "validation" not in {line.get_label() for line in retrain.get_lines()}
    assert "validation" not in "".join(t.get_text() for t in retrain.texts)
    assert [t.get_text() for t in retrain.texts[:2]] == ["train 0.250", "test 0.750"]
    assert headline(kept[0]) == (
        "Losses: autolora on demo, demo, seed 0 test accuracy 0.75, over-fitting gap (test − train "
        "loss) 0.500"
    )
    assert_nothing_cut(kept[0])


def test_losses_of_one_evaluation_show_the_batches(tmp_path: Path, kept: list[Figure]) -> None:
    """One epoch: two points alone would say nothing of how the loss fell."""
    lines = [
        {"stage": "train", "step": step, "kind": "train", "lower_loss": 1 + step % 2}
        for step in range(1, 25)
    ]
    lines.append({"stage": "train", "step": 24, "kind": "validation", "train_loss": 0.3})
    draw(tmp_path, lines, {**RESULT, "ranks": None, "test_loss": 0.31})
    (axes,) = kept[0].axes
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert drawn["train, mean of 3 of them"].get_xdata()[0] == 3
    assert drawn["train, mean of 3 of them"].get_ydata()[0] == pytest.approx((2 + 1 + 2) / 3)
    assert "train" not in drawn
    heights = [text.get_position()[1] for text in axes.texts[:2]]
    assert heights[1] - heights[0] > 0.05 * axes.get_ylim()[1]  # names of near losses stay apart
    assert_nothing_cut(kept[0])


def test_ranks_are_written_in_the_cells(tmp_path: Path, kept: list[Figure]) -> None:
    draw(tmp_path, [], RESULT)
    axes = kept[0].axes[0]
    cells = {(t.get_position()): t.get_text() for t in axes.texts}
    for i in range(len(NAMES)):
        assert cells[(i // 2, i % 2)] == str(i % 4)
    assert [t.get_text() for t in axes.get_yticklabels() if t.get_text()] == ["query", "value"]
    assert axes.get_xlabel() == "layer"


def test_gates_kept_and_dropped(tmp_path: Path, kept: list[Figure]) -> None:
    draw(tmp_path, records(), RESULT)
    panels = [axes for axes in kept[2].axes if axes.get_visible()]
    assert len(panels) == len(NAMES)
    texts = {axes.texts[0].get_text() for axes in panels}
    assert texts == {"r = 0", "r = 1", "r = 2", "r = 3"}
    one = next(axes for axes in panels if axes.texts[0].get_text() == "r = 1")
    strong = [line for line in one.get_lines() if line.get_color() == "#0072B2"]
    (line,) = strong
    assert list(line.get_ydata())[-1] == pytest.approx(0.45)  # the largest one


def test_without_ranks_or_gates(tmp_path: Path) -> None:
    lines = [x for x in records() if x["kind"] != "gates"]
    assert draw(tmp_path, lines, {**RESULT, "ranks": None}) == ["losses.png"]


def test_many_layers_wrap(tmp_path: Path, kept: list[Figure]) -> None:
    names = [f"m.layer.{i}.{part}" for i in range(24) for part in ("q", "v")]
    gates = [
        {"stage": "search", "step": s, "kind": "gates", "gates": {n: [0.5, 0.5] for n in names}}
        for s in (0, 1)
    ]
    lines = [x for x in records() if x["kind"] != "gates"] + gates
    draw(tmp_path, lines, {**RESULT, "ranks": dict.fromkeys(names, 1)})
    assert sum(axes.get_visible() for axes in kept[2].axes) == 48


def test_comparison(tmp_path: Path, kept: list[Figure]) -> None:
    results = [
        {**RESULT, "method": method, "seed": seed, "metrics": {"accuracy": base + seed / 100}}
        for method, base in (("autolora", 0.9), ("lora", 0.8))
        for seed in range(3)
    ]
    comparison.draw(results, tmp_path / "comparison.png")
    axes = kept[0].axes[0]
    assert axes.get_xlabel() == "test accuracy (axis not from 0)"
    assert axes.get_xlim()[0] > 0
    assert all(others.get_xlim()[0] <= 0 for others in kept[0].axes[1:])
    means = [c.lines[0].get_xdata()[0] for c in axes.containers]
    assert means == pytest.approx([0.91, 0.81])


def test_program_draws_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: list[Figure]
) -> None:
    draw(tmp_path, records(), RESULT)
    (tmp_path / "figures" / "ranks.png").unlink()
    (tmp_path / "result.json").write_text(json.dumps({"schema_version": 1, **RESULT}))
    figures.main([str(tmp_path)])
    assert (tmp_path / "figures" / "ranks.png").exists()
    with pytest.raises(SystemExit):
        figures.main([str(tmp_path / "nothing")])
    assert "no finished run" in capsys.readouterr().err
    (tmp_path / "result.json").write_text('{"schema_version": 1, "program": "style_transfer"}')
    with pytest.raises(SystemExit):
        figures.main([str(tmp_path)])
    assert "is a result of experiments.style_transfer, no run\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert.encoder.layer.3.attention.self.query", (3, "attention.self.query")),
        ("model.layers.11.mlp.up_proj", (11, "mlp.up_proj")),
        ("classifier", (None, "classifier")),
    ],
)
def test_place(name: str, expected: tuple[int | None, str]) -> None:
    assert places([name])[name] == expected


def test_grid_shortens_parts_as_far_as_they_stay_apart() -> None:
    parts = ["attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"]
    layers, shown, cells = grid(f"x.layer.{i}.{part}" for i in (1, 0) for part in parts)
    assert layers == [0, 1]
    assert shown == ["query", "attention.output.dense", "intermediate.dense", "output.dense"]
    assert cells["x.layer.1.intermediate.dense"] == (2, 1)


def test_colours_stay_apart_for_colour_blind_eyes() -> None:
    # Machado et al. 2009, severity 1.0: protanopia, deuteranopia, tritanopia (linear RGB).
    matrices = np.array(
        [
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ],
            [
                [0.367322, 0.860646, -0.227968],
                [0.280085, 0.672501, 0.047413],
                [-0.011820, 0.042940, 0.968881],
            ],
            [
                [1.255528, -0.076749, -0.178779],
                [-0.078411, 0.930809, 0.147602],
                [0.004733, 0.691367, 0.303900],
            ],
        ]
    )
    lines = ["#0072B2", "#E69F00", "#D55E00"]
    linear = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in lines]) ** 2.2
    for matrix in matrices:
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        for i in range(3):
            for j in range(i):
                assert np.abs(seen[i] - seen[j]).max() > 0.12
