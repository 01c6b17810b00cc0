"""A job that is told to end: by its sweep, by a scheduler, by the loss of its machine."""

import os
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bilevel.errors import UserError
from experiments.cli import stopping
from experiments.sweeping.launchers import launcher_of
from experiments.sweeping.ties import ClusterTie, SchedulerTie


def test_what_is_preempted_saves_its_state_before_submitit_hears_of_it() -> None:
    pytest.importorskip("submitit")
    heard: list[str] = []

    def requeue(number: int, frame: object) -> None:
        heard.append("requeued")
        raise SystemExit(144)

    def job() -> None:
        with SchedulerTie().held():
            try:
                with stopping.heeding():
                    os.kill(os.getpid(), signal.SIGUSR2)
            except stopping.Stopped:
                heard.append("saved")

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit) as stop:
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert stop.value.code == 144
    assert heard == ["saved", "requeued"]
    assert not stopping.requested()


def test_a_job_of_this_machine_ends_at_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    with pytest.raises(SystemExit) as stop, SchedulerTie().held():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 143


def test_a_job_that_nobody_ends_goes_its_way() -> None:
    pytest.importorskip("submitit")
    with SchedulerTie().held():
        pass


def test_jobs_of_a_cluster_end_with_their_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "stop").touch()
    with ClusterTie(tmp_path, tmp_path / "stop").held():
        assert Path.cwd() == tmp_path
        with pytest.raises(stopping.Stopped), stopping.heeding():
            pytest.fail("a run began after the request to end")
    assert not stopping.requested()


def test_a_job_that_loses_its_machine_is_not_done(tmp_path: Path) -> None:
    """So that the cluster starts it again."""
    child = os.fork()
    if child == 0:
        with ClusterTie(tmp_path, tmp_path / "stop").held():
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_machines_must_share_a_disk(tmp_path: Path) -> None:
    tie = ClusterTie(tmp_path / "elsewhere", tmp_path / "stop")
    with pytest.raises(UserError, match="share"), tie.held():
        pass


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node"])
def test_a_job_is_one_process(key: str) -> None:
    config = OmegaConf.create({"_target_": "a.SlurmLauncher", "nodes": 1, "tasks_per_node": 1})
    launcher_of(config)
    config[key] = 2
    with pytest.raises(UserError, match=key):
        launcher_of(config)
