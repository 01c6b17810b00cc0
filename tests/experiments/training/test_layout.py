"""What is told by the layout of a model, before its weights are read."""

from pathlib import Path

import pytest

from bilevel import UserError
from experiments.models import pretrained
from tests.experiments.training.own_files import run, three_files, words

METHOD = ("method=learned_settings", "hypergradient=forward", "method.granularity=module")
FOUR = "method.learn=[decay,scale,learning_rate,weight_decay]"  # by module, two with the head: 18


class ReadAnywayError(Exception):
    pass


@pytest.fixture
def start(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that gets no weights."""

    def no_weights(*_: object, **__: object) -> None:
        raise ReadAnywayError

    monkeypatch.setattr(pretrained, "load_weights", no_weights)
    data = three_files(tmp_path / "data")
    return lambda *more: run(tmp_path / "run", words(tiny, data, *more))


@pytest.mark.parametrize(
    ("asked", "variables"),
    [
        ((*METHOD, FOUR), 18),
        (("method=autolora", "method.rank=8", "hypergradient=forward"), 32),
        (("method=example_weights", "hypergradient=forward"), 64),
        (("method=bidora", "hypergradient=forward"), 128),
    ],
)
def test_too_many_variables_for_forward_mode_are_told_before_weights_are_read(
    start, asked: tuple[str, ...], variables: int
) -> None:
    with pytest.raises(UserError, match=rf"forward.* {variables} variables.*directions=K"):
        start(*asked)


@pytest.mark.parametrize(
    "more",
    [
        ("method.learn=[decay,scale]",),
        (FOUR, "method.granularity=kind"),
        (FOUR, "hypergradient.directions=4"),
        (FOUR, "hypergradient=unrolled"),
    ],
)
def test_others_go_on_to_the_weights(start, more: tuple[str, ...]) -> None:
    with pytest.raises(ReadAnywayError):
        start(*METHOD, *more)
