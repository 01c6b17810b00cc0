"""Let several processes share one run: its batches, its folder and what it has saved."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bilevel.distributed import World, from_first, gathered
from bilevel.errors import UserError
from experiments.config.plan import Plan
from experiments.results import saved_model
from experiments.training.finished_stages import processes_of
from problems.common.method import Outcome

__all__ = ["JOURNAL", "folder_of", "saved_by_first", "shared"]

JOURNAL = Path("checkpoints", "stages.json")  # in a run's folder


def shared(plan: Plan, folder: Path, world: World) -> Plan:
    """The plan with the batches of all processes together; every process has to come here.

    A resumed run keeps the batches that it began with, whatever the number of processes now.

    Args:
        plan: as it was asked for.
        folder: the run's, which the first process looks into.
        world: the processes.

    Raises:
        UserError: more processes than examples in a batch; the folder's journal is damaged.
    """
    before = None
    if world.rank == 0 and plan.resume:
        before = processes_of(folder / JOURNAL)
    plan = plan.of_processes(from_first(before, world) or world.world_size)
    if plan.settings.batch_size < world.world_size:
        raise UserError(
            f"{world.world_size} processes cannot share the run's batches of "
            f"{plan.settings.batch_size}: resume it with at most as many"
        )
    return plan if world.rank == 0 else replace(plan, figures=False, report_to=())


@contextmanager
def folder_of(folder: Path, world: World) -> Iterator[Path]:
    """Where this process may write: the run's folder, or for all but the first one of its own.

    The latter is gone at the end. So everything is computed and written in the same way
    everywhere, and what lies in the run's folder is of one process.
    """
    if world.rank == 0:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="process-") as scratch:
        yield Path(scratch)


def saved_by_first(
    saved: saved_model.Saved | None, outcome: Outcome, folder: Path, world: World
) -> saved_model.Saved:
    """What the first process has saved, as this one can read it; every process has to come here.

    On the first one's machine that is the same folder; on another, where the disk need not be
    the same, each process writes its own copy.

    Args:
        saved: by the first process; None of the others.
        outcome: the same on all.
        folder: this process's own.
        world: the processes.
    """
    if world.world_size == 1 and saved is not None:
        return saved
    host = gathered(platform.node(), world)
    found = from_first(saved, world)
    assert found is not None
    there = host[world.rank] == host[0] and found.folder.is_dir()
    return found if there else saved_model.save(outcome, folder)
