"""Write the pages of runs: one for each, and one for all of them together."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, printable
from experiments import figures
from experiments.cli.messages import sentence
from experiments.cli.writing import write_atomically
from experiments.comparing.comparison import Comparison
from experiments.comparing.score_interval import score_interval
from experiments.pages import one_run, several
from experiments.pages.several import Unread
from experiments.plots.records import Record
from experiments.results import predictions_file, record, wrongest

__all__ = ["FILE", "write"]

FILE = "report.html"
ELSEWHERE = "runs"  # where the pages of runs go that are not below the folder written into
# A page that is newer than all of these is left as it is.
READ = (record.FILE, "metrics.jsonl", predictions_file.FILE, wrongest.FILE, "ranks.json")


def write(
    results: Sequence[dict[str, Any]],
    runs: Sequence[figures.Run],
    comparisons: Sequence[Comparison],
    agreement: Sequence[str],
    unread: Sequence[Unread],
    asked: Sequence[Path],
    out: Path,
) -> list[Path]:
    """Write the page of each run and, unless one run alone was asked for, that of all.

    A run in ``out`` or below it has its page in its own folder, another in ``out/runs``. A run
    whose page cannot be made is told of, and costs the others nothing.

    Args:
        results, runs, comparisons, agreement, unread: see :func:`.several.html`.
        asked: the folders that were asked for.
        out: the folder that is written into.

    Returns:
        The page to look at first, and then the others that were written.
    """
    own = [r for r in results if r.get("folder") and not r.get("of_grid")]
    alone = len(own) == len(asked) == 1 and Path(own[0]["folder"]).samefile(asked[0])
    first = out / FILE
    intervals = _intervals(comparisons)
    records = {result["folder"]: lines for lines, result in runs}
    if alone:
        return [first] if _one(own[0], first, [], intervals, records) else []
    unread, written, pages = list(unread), [], {}
    for r, place in zip(own, _places(own, first), strict=True):
        if _is_new(Path(r["folder"]), place):
            pages[r["folder"]] = place
        elif _one(r, place, unread, intervals, records):
            pages[r["folder"]] = place
            written.append(place)
    text = several.html(results, runs, comparisons, agreement, unread, first, pages)
    write_atomically(first, text)
    return [first, *written]


def _intervals(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], tuple[float, float]]:
    """Folder of a run and metric -> its 95 % interval over test examples."""
    return {
        (run.folder, c.metric): (run.low, run.high)
        for c in comparisons
        for method in c.methods
        for run in method.runs
        if run.folder is not None and run.low is not None and run.high is not None
    }


def _one(
    result: dict[str, Any],
    place: Path,
    unread: list[Unread],
    intervals: Mapping[tuple[str, str], tuple[float, float]],
    records: Mapping[str, list[Record]],
) -> bool:
    """Write the page of a run; False where its files are damaged."""
    folder = Path(result["folder"])
    try:
        # a comparison of another metric, or of another run of this seed, has none of it
        interval = intervals.get((result["folder"], result["primary_metric"]))
        interval = interval or score_interval(folder, result)
        text = one_run.html(folder, result, place, interval, records.get(result["folder"]))
    except UserError as error:
        reason = sentence(error)
    except figures.DAMAGE as error:
        reason = f"its files are damaged or of another version ({type(error).__name__}: {error})"
    else:
        place.parent.mkdir(exist_ok=True)
        write_atomically(place, text)
        return True
    unread.append(Unread(folder, f"no page of its own: {reason}"))
    print(printable(f"no page of {folder}: {reason}"), file=sys.stderr)
    return False


def _places(runs: Sequence[Mapping[str, Any]], first: Path) -> Iterator[Path]:
    """Where the page of each run goes.

    Raises:
        UserError: the folder for the others is a link to somewhere else.
    """
    out = first.parent.resolve()
    elsewhere = first.parent / ELSEWHERE
    folders = [Path(r["folder"]).resolve() for r in runs]
    above = Path(os.path.commonpath([folder.parent for folder in folders])) if folders else out
    for r, folder in zip(runs, folders, strict=True):
        own = Path(r["folder"]) / FILE
        # A folder that only looks as if it were below is a link.
        if folder.is_relative_to(out) and folder != out:
            yield own
            continue
        if elsewhere.is_symlink():
            raise UserError(f"{elsewhere} is a link, and pages are to be written there: remove it")
        words = re.sub(r"[^A-Za-z0-9.-]+", "_", str(folder.relative_to(above))).strip("._") or "run"
        # A page that is there already is kept where it is new enough: it must be of this run.
        mark = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        yield elsewhere / f"{words}_{mark}.html"


def _is_new(folder: Path, place: Path) -> bool:
    if not place.is_file() or place.is_symlink():
        return False
    files = [folder / name for name in READ]
    return place.stat().st_mtime > max(f.stat().st_mtime for f in files if f.is_file())
