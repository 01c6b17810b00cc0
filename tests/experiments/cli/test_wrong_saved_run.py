"""Wrong words for what reads a finished run: one sentence, status 2, before a model loads."""

import shutil
from pathlib import Path

import pytest

from experiments import evaluate, export, figures, report

RUN = Path(__file__).parents[1] / "older_runs" / "finished"
CASES = {
    "seed=x": "seed=x integer",
    "seed=": "seed= integer",
    "seed=-1": "seed=-1 integer",
    "seed=1.5": "seed=1.5 integer",
    "seed=null": "seed=null integer",
    "seed=true": "seed=true integer",
    "seed=4294967296": "seed=4294967296 4294967295 most\n",
    "seed=[1]": "seed=[1] integer",
    "seed={a:1}": "integer",
    "seed=1,2": "seed=1,2 one value",
    "seed": "'seed' name=value",
    "=x": "'=x' name=value",
    "+seed=3": "'+seed' seed",
    "train.lr=3": "'train task, model, seed",
    "method=lora": "'method task, model, seed",
    "hydra.run.dir=x": "'hydra task, model, seed",
    "model=demo": "model=demo its own base",
    "model.dropout=7": "model.dropout=7 [0, 1)",
    "model.trust_remote_code=maybe": "model.trust_remote_code=maybe true or false",
    "task=sst3": "'sst3' 'sst2'",
    "task.nope=1": "'nope' task",
    "task._target_=os.system": "task._target_=os.system classes",
    "run=": "run= empty",
    "run=nowhere": "run=nowhere result.json",
    "--seed=3": "--seed name=value",
    "-m": "--multirun experiments.run --config-dir",
    "--multirun": "--multirun experiments.run",
    "--cfg=job": "--cfg experiments.run",
    "--resolve": "--resolve experiments.run",
    "--info": "--info experiments.run",
}


@pytest.mark.parametrize("word", CASES)
@pytest.mark.parametrize("program", [evaluate, export])
def test_one_sentence(
    program: object, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    with pytest.raises(SystemExit) as stop:
        program.main([f"run={RUN}", word])  # type: ignore[attr-defined]
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    for part in CASES[word].split(" "):
        assert part in text


@pytest.mark.parametrize(
    ("name", "said"),
    [("adapter", f"adapter is a part of the run {RUN}, run={RUN}"), ("", "README.md")],
)
def test_the_folder_of_an_adapter_is_no_run(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RUN / name
    if not name:
        folder = tmp_path / "sent"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([f"run={folder}"])
    assert said in capsys.readouterr().err


def test_figures_of_a_run_that_has_none_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(RUN, tmp_path / "run")
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    figures.main([str(run)])
    assert "nothing to draw" in capsys.readouterr().out


@pytest.mark.parametrize("program", [figures, report])
def test_programs_that_take_folders_as_they_are_say_so(
    program: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        program.main(["run=some where"])  # type: ignore[attr-defined]
    assert stop.value.code == 2
    assert "takes folders as they are, 'some where'\n" in capsys.readouterr().err
