"""Kill a process of a run under torchrun, again and again, and hold the end against a calm run.

    python -m benchmarks.kills [processes=2] [kills=20] [method=autolora] [seed=0]
    python -m benchmarks.kills processes=2,1 method=lora  # resumed with 1 after 2, 2 after 1, ...
    python -m benchmarks.kills restarts=torchrun          # torchrun --max-restarts starts it again

Each time a process is chosen at random and killed, every third time by SIGTERM and else by SIGKILL:
some checkpoints after the last start, or, one time in five, while it is still starting. Then the
same line is started once more, with ``run.resume=auto``. What the run leaves in the end must be
what a run leaves that nobody killed: saved tensors, scores, predictions and the losses on the way,
bit for bit. With another number of processes a sum has its parts in another order, so that one is
held to a tolerance, in a model without dropout, whose masks would be others (and of a method
without a search: a rank that is hardly decided may be another one).
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

WORDS = (
    *("task=demo", "task.max_train=64", "task.max_test=100", "run.figures=false"),
    *("train.batch_size=4", "train.epochs=100", "train.max_steps=160"),
    *("engine.metrics_every=1", "engine.checkpoint_every=3", "engine.evaluate_every=10"),
    "engine.precision=fp32",
)
PATIENCE = 120  # seconds in which all have to end once one is killed
START = 12.0  # seconds in which a process is still starting
NEAR = 1e-3  # of saved tensors and losses, with several numbers of processes


def start(processes: int, restarts: int, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a run by torchrun; its output goes to the end of a file."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += [f"--max-restarts={restarts}"] if restarts else []
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, "-m", "experiments.run", *words], stdout=file, stderr=subprocess.STDOUT
        )


def newest(folder: Path) -> list[str]:
    """Names of the checkpoints in a run's folder."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*.safetensors"))


def processes_of(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The run's, the oldest first; none where the launcher has ended."""
    try:
        return sorted(psutil.Process(launcher.pid).children(), key=lambda one: one.pid)
    except psutil.NoSuchProcess:
        return []


def kill_one(
    launcher: subprocess.Popen[bytes],
    folder: Path,
    how: signal.Signals,
    rng: random.Random,
    before: list[psutil.Process],
    began: bool,
) -> str:
    """Kill one process of a run at a random moment; says what was done, "" if the run is over.

    Args:
        launcher: torchrun.
        folder: the run's.
        how: the signal.
        rng: of the moment and the process.
        before: the processes that were there when the last one was killed.
        began: let it come to a checkpoint first: else another number of processes begins anew,
            with batches of its own.
    """
    while not (workers := [one for one in processes_of(launcher) if one not in before]):
        if launcher.poll() is not None:
            return ""
        time.sleep(0.02)
    if rng.random() < 0.2 and (newest(folder) or not began):
        time.sleep(START * rng.random())
        when = "while starting"
    else:
        seen, changes = newest(folder), rng.randint(1, 4)
        while changes:
            if launcher.poll() is not None:
                return ""
            if (now := newest(folder)) and now != seen:
                changes, seen = changes - 1, now
            time.sleep(0.02)
        time.sleep(0.2 * rng.random())
        when = f"at {seen[-1]}"
    workers = [one for one in processes_of(launcher) if one not in before]  # all have begun by now
    if not workers:
        return ""
    rank = rng.randrange(len(workers))
    workers[rank].send_signal(how)
    return f"{how.name} to process {rank} of {len(workers)} {when}"


def ended(launcher: subprocess.Popen[bytes], workers: list[psutil.Process], said: str) -> None:
    """Wait until all processes of a run have ended of which one was killed."""
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    if alive:
        launcher.kill()
        raise SystemExit(f"{said}: the others hang")


def killed_and_resumed(
    numbers: list[int], kills: int, by_torchrun: bool, seed: int, words: list[str], log: Path
) -> int:
    """Run until the end in spite of kills; how many there were."""
    rng, turns = random.Random(seed), itertools.cycle(numbers)
    folder = log.parent / "killed"
    words = [*words, f"hydra.run.dir={folder}", "run.resume=auto"]
    run = start(next(turns), kills if by_torchrun else 0, words, log)
    workers: list[psutil.Process] = []
    for number in range(kills):
        how = signal.SIGTERM if number % 3 == 2 else signal.SIGKILL
        said = kill_one(run, folder, how, rng, workers, len(set(numbers)) > 1)
        if not said:
            break
        workers = processes_of(run)
        if by_torchrun:
            ended(run, workers, said)
        else:
            try:
                status = run.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise SystemExit(f"{said}: the others hang") from None
            said += f"; torchrun ended with {status}"
            run = start(next(turns), 0, words, log)
        print(f"{number + 1:3}  {said}", flush=True)
    else:
        number = kills
    if run.wait():
        raise SystemExit(f"the run could not be resumed: {log.read_text()[-3000:]}")
    return number


def left(folder: Path) -> dict[str, Any]:
    """What a finished run has left that the clock has no part in."""
    values = json.loads((folder / "result.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "tensors": load_file(folder / "adapter" / "adapter_model.safetensors"),
        "scores": {name: values[name] for name in ("metrics", "train_loss", "test_loss", "ranks")},
        "predictions": (folder / "predictions.jsonl").read_text(),
        "losses": [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in lines
        ],
    }


def furthest(one: Any, other: Any) -> float:
    """The largest difference of any numbers in two structures; infinite for two forms."""
    if isinstance(one, torch.Tensor):
        apart = (
            one.double() - other.double() if one.shape == other.shape else torch.tensor(torch.inf)
        )
        return float(apart.abs().max()) if apart.numel() else 0.0
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return float("inf")
        return max((furthest(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        if len(one) != len(other):
            return float("inf")
        return max((furthest(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


def same(calm: Path, killed: Path, exactly: bool) -> bool:
    """Whether two runs have left the same; prints how far they are apart."""
    one, other = left(calm), left(killed)
    most = 0.0 if exactly else NEAR
    apart = {name: furthest(one[name], other[name]) for name in ("tensors", "scores", "losses")}
    print(f"largest difference: {', '.join(f'{name} {far:.1e}' for name, far in apart.items())}")
    if exactly:
        apart["predictions"] = furthest(one["predictions"], other["predictions"])
    return all(far <= most for far in apart.values())


def main() -> None:
    known = ("processes", "kills", "method", "seed", "restarts")
    if strange := [w for w in sys.argv[1:] if w.partition("=")[0] not in known or "=" not in w]:
        raise SystemExit(f"{strange[0]}: allowed are {', '.join(f'{name}=' for name in known)}")
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    numbers = [int(number) for number in given.get("processes", "2").split(",")]
    kills, seed = (int(given.get(key, usual)) for key, usual in (("kills", 20), ("seed", 0)))
    exactly = len(set(numbers)) == 1
    words = [*WORDS, f"method={given.get('method', 'autolora')}"]
    words += [] if exactly else ["model.dropout=0"]
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        calm = log.parent / "calm"
        if start(numbers[0], 0, [*words, f"hydra.run.dir={calm}"], log).wait():
            raise SystemExit(f"the calm run failed: {log.read_text()[-2000:]}")
        by_torchrun = given.get("restarts") == "torchrun"
        done = killed_and_resumed(numbers, kills, by_torchrun, seed, words, log)
        alike = same(calm, log.parent / "killed", exactly)
    print(f"{done} kills, all resumed; what is left {'is the same' if alike else 'DIFFERS'}")
    raise SystemExit(0 if alike and done == kills else 1)


if __name__ == "__main__":
    main()
