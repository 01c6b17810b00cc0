"""What a run says of itself: in its help, in its log and at its end."""

from pathlib import Path

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.run import main


def said(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The log and the lines at the end of a run."""
    main([*words, "train.max_steps=1", f"hydra.run.dir={folder}"])
    return (folder / "run.log").read_text(), capsys.readouterr().out


def test_sizes_of_the_data(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*quick, "run.figures=false"]
    log, _ = said(tmp_path / "two", words, capsys)
    assert "data: train 96, test 80" in log
    search, retrain = (line for line in log.splitlines() if "1 steps on" in line)
    assert "; D_train 48, D_val 48 (of the training)" in search
    assert "; D_train 96, no validation data" in retrain
    log, _ = said(tmp_path / "held", [*words, "method=lora", "method.hold_out=0.25"], capsys)
    assert "; D_train 72, held out to choose by 24 (of the training)" in log


def test_lines_at_the_end_name_what_there_is(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in quick if not word.startswith("method.")]
    lora, bitfit = tmp_path / "lora", tmp_path / "bitfit"
    _, end = said(lora, [*words, "method=lora"], capsys)
    assert f"  adapter   {lora / 'adapter'}\n  figures   {lora / 'figures'}\n" in end
    _, end = said(bitfit, [*words, "method=bitfit", "run.figures=false"], capsys)
    assert end.count(f"  model     {bitfit / 'model'}\n") == 1
    assert "adapter" not in end
    assert "figures" not in end


@pytest.mark.parametrize(("method", "said"), [("full", True), ("autolora", False), ("lora", False)])
def test_a_rate_that_is_not_used_is_told(method, said, caplog):
    Plan.of(compose_config([f"method={method}", "task=demo", "train.lr=0.01"]))
    told = "train.lr=0.01 is not used: the method has method.optimizer.lr=2e-05" in caplog.text
    assert told == said
    caplog.clear()
    Plan.of(compose_config([f"method={method}", "task=demo"]))
    assert "not used" not in caplog.text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=lora", "hypergradient=cg"], "hypergradient is not used"),
        (["method=lora", "hypergradient.product=double_backward"], "hypergradient is not used"),
        (["method=lora", "engine.check_hypergradient_every=5"], "check_hypergradient_every=5"),
        (["method=ia3", "train.target_modules=all"], "train.target_modules=all is not used"),
        (["method=autolora", "hypergradient=cg", "engine.check_hypergradient_every=5"], None),
        (["method=full_qv", "train.target_modules=all"], None),
    ],
)
def test_an_option_that_a_method_has_no_use_for_is_told(words, told, caplog):
    Plan.of(compose_config([*words, "task=demo"]))
    assert ("not used" in caplog.text) == (told is not None)
    assert (told or "") in caplog.text


def test_a_switch_has_no_rate(caplog):
    """BiDoRA's method.retrain says whether to retrain; elsewhere it is an optimiser."""
    Plan.of(compose_config(["method=bidora", "method.retrain=true", "task=demo", "train.lr=0.01"]))
    assert "not used" not in caplog.text
