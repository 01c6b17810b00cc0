"""What all figures share."""

import logging
import warnings
from pathlib import Path

import pytest

from experiments.plots import style
from tests.experiments.drawn import assert_nothing_cut


def test_letters_that_the_font_lacks_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    style._tell_boxes.cache_clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for name in ("one", "two"):
            with style.canvas(tmp_path / f"{name}.png", 2, 2) as figure:
                figure.text(0.1, 0.5, "中文")
    assert [message for message in caplog.messages if "boxes" in message] == caplog.messages
    assert len(caplog.messages) == 1
    assert (tmp_path / "two.png").stat().st_size > 0


def test_other_warnings_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(figure: object, path: Path) -> None:
        path.touch()
        warnings.warn("something else", UserWarning, stacklevel=1)

    monkeypatch.setattr(style.Figure, "savefig", warn)
    with pytest.warns(UserWarning, match="something else"), style.canvas(tmp_path / "x.png", 2, 2):
        pass


def test_a_long_title_is_broken_at_the_figures_edge(tmp_path: Path) -> None:
    with style.canvas(tmp_path / "f.png", 5.0, 3.0) as figure:
        figure.subplots()
        style.headline(
            figure, "Ranks: adalora, autolora, salora on planted_noisy, seeds " + "0, 1, " * 20
        )
        assert_nothing_cut(figure)
