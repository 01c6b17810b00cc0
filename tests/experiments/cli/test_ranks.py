"""Who tells what has ended a run on several processes; torchrun end to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bilevel import launcher
from bilevel.errors import UserError
from experiments.cli import ranks
from experiments.cli.command_line import one_sentence


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int = 2, here: int = 2) -> None:
    names = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": here}
    for name, value in {**names, "MASTER_ADDR": "first", "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))


def test_a_launcher_is_known_by_all_of_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=1)
    assert (launcher.processes(), launcher.rank()) == (2, 1)
    monkeypatch.delenv("MASTER_PORT")  # WORLD_SIZE alone may be of anything
    assert (launcher.processes(), launcher.rank()) == (1, 0)
    assert launcher.command() == ["python"]


def test_how_to_start_as_many_again(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=0)
    assert launcher.command() == ["torchrun", "--nproc-per-node=2"]
    launched(monkeypatch, rank=0, processes=8, here=4)
    words = launcher.command()
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=first:29500"} <= set(words)


def test_the_first_tells_what_is_wrong_with_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=0)
    assert ranks.may_tell("no", interrupted=False)
    assert ranks.may_tell("no", interrupted=True)
    launched(monkeypatch, rank=1)
    monkeypatch.setattr(ranks, "GRACE", 0.0)
    assert ranks.may_tell("no", interrupted=False)  # nobody has ended it: the first knows nothing
    assert not ranks.may_tell("no", interrupted=True)

    def ended(seconds: float) -> None:
        raise KeyboardInterrupt  # by the launcher, as the first has told it

    monkeypatch.setattr(time, "sleep", ended)
    assert not ranks.may_tell("no", interrupted=False)


def test_a_program_for_one_process_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, rank=0)
    with pytest.raises(UserError, match="one process"):
        ranks.refuse("experiments.report")
    with pytest.raises(SystemExit), one_sentence():
        pytest.fail("it has begun")
    assert "has started 2" in capsys.readouterr().err


def torchrun(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, "-m", "experiments.run", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.bach_size=4", "did you mean 'batch_size'"),
        ("task.max_train=20", "fewer than train.batch_size=32"),  # 16 each
        ("-m", "sweep"),
    ],
)
def test_one_sentence_of_all(word: str, said: str, tmp_path: Path) -> None:
    run = torchrun("method=lora", "task=demo", word, f"hydra.run.dir={tmp_path / 'run'}")
    _, err = run.communicate(timeout=300)
    assert run.returncode
    assert [said in line for line in err.splitlines() if line.startswith("error: ")] == [True]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stopped_and_resumed(quick: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [word for word in quick if not word.startswith("train.epochs")]
    given = [*words, "method=lora", "train.epochs=400", "train.max_steps=600"]
    run = torchrun(*given, f"hydra.run.dir={folder}")
    while not (folder / "metrics.jsonl").exists() and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=300)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told == [
        "error: interrupted; continue with: torchrun --nproc-per-node=2 -m experiments.run "
        f"run.resume={folder}"
    ]
    assert list((folder / "checkpoints").glob("*.safetensors"))
    again = torchrun(f"run.resume={folder}")
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert out.count("lora on demo") == 1
    assert "goes on at step" in err
