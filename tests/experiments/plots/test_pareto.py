"""The picture of scores against parameters: what it says, and when there is none."""

import dataclasses

import pytest
from matplotlib import pyplot as plt

from experiments.comparing.comparison import Comparison, Method, RunScore
from experiments.plots import pareto


def method(name, parameters, score, front):
    values = {field.name: None for field in dataclasses.fields(Method)}
    values |= {
        "method": name,
        "variant": "",
        "runs": [RunScore(None, 0, score)],
        "parameters": parameters,
    }
    values |= {"score": score, "on_front": front, "low": score - 0.1, "high": score + 0.1}
    return Method(**values)


def compared(*methods):
    return Comparison("films", "small", "f1", True, "f1", list(methods), None, "", [], [])


def test_every_method_is_a_point_and_the_front_a_line(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    found = compared(
        method("a", 1000, 0.8, True), method("b", 1000, 0.7, False), method("c", 9000, 0.9, True)
    )
    assert pareto.draw([found], tmp_path / "pareto.png")
    (figure,) = kept
    (axes,) = figure.axes
    assert axes.get_ylabel() == "test f1"
    assert "films" in axes.get_title(loc="left")
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["a (1 seed)", "b (1 seed)", "c (1 seed)"]
    front = axes.lines[0]
    assert front.get_ydata().tolist() == [0.8, 0.9]
    points = {line.get_label(): line for line in axes.lines if "seed" in str(line.get_label())}
    assert points["b (1 seed)"].get_markerfacecolor() == "white"
    assert points["a (1 seed)"].get_markerfacecolor() != "white"
    # of one size, and yet not over one another
    assert points["a (1 seed)"].get_xdata()[0] < points["b (1 seed)"].get_xdata()[0]
    monkeypatch.undo()
    plt.close(figure)


@pytest.mark.parametrize("sizes", [[1000], [1000, 1000]])
def test_one_size_is_no_picture(tmp_path, sizes):
    found = compared(*(method(str(i), size, 0.5, True) for i, size in enumerate(sizes)))
    assert not pareto.draw([found], tmp_path / "pareto.png")
    assert not (tmp_path / "pareto.png").exists()
