"""Kill a process of a run on several, again and again, and hold what comes out against a calm run.

    python -m benchmarks.kills [processes=2] [kills=20] [method=autolora] [seed=0]

Each time a process is chosen at random and killed (SIGKILL, every third time SIGTERM) a random
number of checkpoints after the start; then the run is resumed. At the end its saved tensors must be
those of a run that nobody killed, bit for bit.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

WORDS = (
    *("task=demo", "train.batch_size=4", "train.epochs=4", "run.figures=false"),
    *("engine.checkpoint_every=3", "engine.evaluate_every=0.5", "engine.precision=fp32"),
)


def start(processes: int, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a run by torchrun; its output goes to the end of a file."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, "-m", "experiments.run", *words], stdout=file, stderr=subprocess.STDOUT
        )


def kill_one(
    launcher: subprocess.Popen[bytes], folder: Path, number: int, rng: random.Random
) -> str:
    """Kill one process of a run some checkpoints from now; says what was done, "" if it is over."""
    changes, seen = rng.randint(1, 6), None
    while changes:
        if launcher.poll() is not None:
            return ""
        now = sorted(p.name for p in (folder / "checkpoints").glob("*.safetensors"))
        if now and now != seen:
            changes, seen = changes - 1, now
        time.sleep(0.02)
    time.sleep(rng.random() * 0.2)
    workers = psutil.Process(launcher.pid).children()
    if not workers:
        return ""
    rank = rng.randrange(len(workers))
    how = signal.SIGTERM if number % 3 == 2 else signal.SIGKILL
    workers[rank].send_signal(how)
    return f"{how.name} to process {rank} at {seen[-1] if seen else 'the start'}"


def check(processes: int, kills: int, method: str, seed: int, folder: Path) -> bool:
    """Run calmly, and killed; whether both saved the same."""
    rng, words = random.Random(seed), [*WORDS, f"method={method}"]
    calm, killed, log = folder / "calm", folder / "killed", folder / "log"
    if start(processes, [*words, f"hydra.run.dir={calm}"], log).wait():
        raise SystemExit(f"the calm run failed: {log.read_text()[-2000:]}")
    run, done = start(processes, [*words, f"hydra.run.dir={killed}"], log), 0
    while done < kills:
        said = kill_one(run, killed, done, rng)
        if not said:
            break
        try:
            status = run.wait(timeout=120)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{said}: the others hang") from None
        done += 1
        print(f"{done:3}  {said}; torchrun ended with {status}", flush=True)
        run = start(processes, [f"run.resume={killed}"], log)
    if run.wait():
        raise SystemExit(f"the run could not be resumed: {log.read_text()[-2000:]}")
    one, other = (load_file(p / "adapter" / "adapter_model.safetensors") for p in (calm, killed))
    same = one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    print(f"{done} kills, all resumed; saved tensors {'equal' if same else 'DIFFER'}")
    return same


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        numbers = {
            key: int(given.get(key, usual))
            for key, usual in (("processes", 2), ("kills", 20), ("seed", 0))
        }
        same = check(method=given.get("method", "autolora"), folder=Path(folder), **numbers)
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
