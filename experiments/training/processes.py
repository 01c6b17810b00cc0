"""Let several processes share one run: its batches, its folder and what it has saved."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bilevel.distributed import World, any_of, from_first, gathered
from bilevel.errors import UserError
from experiments.config.plan import Plan
from experiments.training.finished_stages import processes_of

__all__ = ["JOURNAL", "part_in", "seen_by_all", "shared"]

OURS = ("bilevel", "experiments", "problems")
SILENCE = logging.NullHandler()

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
def part_in(folder: Path, world: World) -> Iterator[Path]:
    """Where this process may write: the run's folder, or for all but the first one of its own.

    The latter is gone at the end. So everything is computed and written in the same way
    everywhere, and what lies in the run's folder is of one process. The others log nothing.
    """
    if world.rank == 0:
        yield folder
        return
    loggers = [logging.getLogger(name) for name in OURS]
    before = [log.propagate for log in loggers]
    for log in loggers:
        log.propagate = False
        log.addHandler(SILENCE)
    try:
        with tempfile.TemporaryDirectory(prefix="process-") as scratch:
            yield Path(scratch)
    finally:
        for log, propagates in zip(loggers, before, strict=True):
            log.propagate = propagates
            log.removeHandler(SILENCE)


def seen_by_all(folder: Path | None, scratch: Path, world: World) -> Path:
    """A folder with files of the first process, as this one can read them; all have to come here.

    On the first one's machine that is the same folder; on another, where the disk need not be the
    same, a copy. Machines may have one name; torchrun then counts them (``GROUP_RANK``).

    Args:
        folder: of the first process; None of the others.
        scratch: where this process may put a copy.
        world: the processes.
    """
    place = from_first(folder, world)
    assert place is not None
    hosts = gathered((platform.node(), os.environ.get("GROUP_RANK")), world)
    there = hosts[world.rank] == hosts[0] and place.is_dir()
    if not any_of(not there, world):
        return place
    files = [] if folder is None else [p for p in sorted(folder.iterdir()) if p.is_file()]
    names = from_first([path.name for path in files], world)
    copy = scratch / place.name
    if not there:
        copy.mkdir(exist_ok=True)
    for number, name in enumerate(names):  # one after the other: a model's may be large
        content = from_first(files[number].read_bytes() if world.rank == 0 else None, world)
        if not there and content is not None:
            (copy / name).write_bytes(content)
    return place if there else copy
