"""A run on several processes is the run on one with as many times the batch, and resumes."""

import json
import platform
import random
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilevel import Callback, UserError, distributed
from bilevel.protocols import EngineView
from experiments import finetune, search_ranks
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training import job
from experiments.training import processes as shared_run
from experiments.training.finished_stages import processes_of
from problems import LoRA, LoRACut
from tests.experiments.processes import alike, in_float64, run
from tests.forked import fork, free_port, on

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and is about CPUs")

METHODS = {
    "lora": ["method=lora", "train.gradient_accumulation=2", "train.gradient_clipping=0.1"],
    "autolora": ["method=autolora", "method.unroll_steps=2"],
    "bilora": ["method=bilora"],
    "salora": ["method=salora", "train.max_steps=8"],
    "delta_lora": ["method=delta_lora", "method.start_step=1"],
    "adalora": ["method=adalora", "train.max_steps=9"],
    "learned_settings": ["method=learned_settings"],
    "random_settings": ["method=random_settings", "method.trials=2"],
    "source_weights": ["method=source_weights", "task=demo_sources"],
    "drawn": ["method=source_weights", "task=demo_sources", "method.sampling=draw"],
    "example_weights": [
        *("method=example_weights", "task=demo_noisy", "task.trusted=16"),
        *("train.gradient_accumulation=2", "method.trusted_batch=4"),
    ],
}
QUICK = "lora"


@pytest.fixture(scope="module")
def still(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a short run whose model draws no dropout masks."""
    folder = tmp_path_factory.mktemp("still")
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    dropout = {key: 0.0 for key in config if "dropout" in key and config[key]}
    (folder / "config.json").write_text(json.dumps({**config, **dropout}))
    return [
        *("model=hub", f"model.pretrained={folder}", "task=demo", "task.max_train=64"),
        *("task.max_test=40", "train.max_steps=3", "train.lr=3e-3", "engine.precision=fp32"),
        *("engine.metrics_every=1", "engine.checkpoint_every=1", "engine.evaluate_every=0.5"),
    ]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def lines(folder: Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (name, number)
        if (name, number) == (QUICK, 2)
        else pytest.param(name, number, marks=pytest.mark.slow)
        for name in METHODS
        for number in (2, 4)
    ],
)
def test_as_one_process(name: str, number: int, still: list[str], tmp_path: Path) -> None:
    given = METHODS[name]
    keys = {word.partition("=")[0] for word in given}
    words = [*(word for word in still if word.partition("=")[0] not in keys), *given]
    with in_float64():
        one = run([*words, "train.batch_size=8"], tmp_path / "one")
        share = [*words, f"train.batch_size={8 // number}"]
        several = on(number, lambda: run(share, tmp_path / "several"))
    assert all(result == several[0] for result in several)  # everybody gets the first one's
    assert several[0]["metrics"] == one["metrics"]
    assert several[0]["engine"]["processes"] == number
    expected, found = tensors(tmp_path / "one"), tensors(tmp_path / "several")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.allclose(found[key].double(), tensor.double(), rtol=0, atol=1e-12), key
    both = zip(lines(tmp_path / "one"), lines(tmp_path / "several"), strict=True)
    for line, other in both:  # losses are means over the processes
        other["seconds"] = line["seconds"]
        assert alike(other, line, atol=1e-7), (other, line)


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_resumed_with_another_number(
    before: int, after: int, still: list[str], tmp_path: Path
) -> None:
    """The batches stay those of the processes that began; weights, then, too."""
    words = [*still, "method=lora", f"train.batch_size={8 // before}"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def begin() -> None:
        run(words, whole)
        run(words, cut)

    with in_float64():
        on(before, begin)
        for path in (cut / "checkpoints").glob("*-00000003.safetensors"):
            path.unlink()  # as if it had been killed after the second step
        (cut / "result.json").unlink()
        assert processes_of(cut / shared_run.JOURNAL) == before
        resumed = on(after, lambda: run(words, cut, resume=True))
    assert resumed[0]["engine"]["processes"] == before
    for key, tensor in tensors(whole).items():
        assert torch.allclose(tensors(cut)[key].double(), tensor.double(), rtol=0, atol=1e-12), key


class WrongOnOne(Callback):
    """A user's own, with a mistake that one process alone meets."""

    def on_step_end(self, engine: EngineView) -> None:
        """Fail on the second process, after the third step."""
        assert engine.global_step < 3 or distributed.current().rank != 1, "own mistake"


def test_a_mistake_that_one_process_meets_ends_all(still: list[str], tmp_path: Path) -> None:
    """Nobody waits for who is gone."""
    words = [*still, "method=lora", "train.batch_size=4", f"hydra.run.dir={tmp_path / 'run'}"]

    def part() -> None:
        try:
            plan = replace(Plan.of(compose_config(words)), figures=False)
            job.execute(plan, tmp_path / "run", callbacks=[WrongOnOne()])
        except (AssertionError, UserError) as error:
            (tmp_path / f"met-{distributed.current().rank}").write_text(str(error))
            raise SystemExit(7) from error

    port = free_port()
    forked = [fork(rank, 2, port, part) for rank in range(2)]
    for one in forked:
        one.join(timeout=90)
    assert [one.exitcode for one in forked] == [7, 7]
    assert "own mistake" in (tmp_path / "met-1").read_text()
    assert "another process" in (tmp_path / "met-0").read_text()
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("named", [True, False])
def test_another_machine_gets_a_copy(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is on another machine reads the first one's files without seeing its disk.

    All may have one name; torchrun counts them then.
    """
    saved = tmp_path / "adapter"
    saved.mkdir()
    (saved / "weights").write_bytes(b"12")

    def part() -> tuple[str, bytes]:
        world = distributed.setup()
        host = world.rank // 2
        monkeypatch.setattr(platform, "node", lambda: f"host{host * named}")
        monkeypatch.setenv("GROUP_RANK", str(host * (not named)))
        scratch = tmp_path / f"scratch{world.rank}"
        scratch.mkdir()
        place = shared_run.seen_by_all(saved if world.rank == 0 else None, scratch, world)
        return str(place), (place / "weights").read_bytes()

    found = on(3, part)
    assert [place for place, _ in found] == [str(saved)] * 2 + [str(tmp_path / "scratch2/adapter")]
    assert {content for _, content in found} == {b"12"}


def test_finetune_on_processes(tiny: Path) -> None:
    """Every process gets the first one's result, and a model of its own with the same weights."""
    rows = [{"input_ids": [2, 5 + i % 7, 3], "labels": i % 2} for i in range(24)]

    def part() -> tuple[float, float]:
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
        data = {"train": rows, "test": rows[:8]}
        run = finetune(model, tokenizer, data, LoRA(rank=2), batch_size=4, max_steps=2)
        total = sum(float(p.double().abs().sum()) for p in run.model.parameters())
        return run.result["test_loss"], total

    first, second = on(2, part)
    assert first == second


def test_search_ranks_on_processes(tiny: Path) -> None:
    """Every process gets the same ranks, frontier and words; what decides is shared out."""
    rows = [{"input_ids": [2, 5 + i % 7, 5 + i // 7, 3], "labels": i % 2} for i in range(40)]

    def part() -> tuple[Any, ...]:
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
        settings: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "lr": 1e-2}
        drawn = search_ranks(model, tokenizer, rows, LoRACut(rank=2), **settings)
        half = LoRACut(rank=2, parameter_budget=0.5)
        told = search_ranks(model, tokenizer, rows, half, **settings)
        assert drawn.frontier is not None
        assert told.decided is not None
        points = [(point.components, point.loss) for point in drawn.frontier.points]
        patterns = [(found.config.r, found.config.rank_pattern) for found in (drawn, told)]
        return points, patterns, told.decided.words

    first, second = on(2, part)
    assert first == second
    assert len(first[0]) > 2


def killed_and_resumed(words: list[str], folder: Path, kills: int, processes: int = 2) -> int:
    """Run, each time until a random process is killed at a random moment; how often it was.

    Nobody may hang: those that are left notice, and end.
    """
    chance, done = random.Random(0), 0
    while True:
        resume = (folder / "checkpoints").is_dir()
        port = free_port()
        forked = [
            fork(rank, processes, port, partial(run, words, folder, resume))
            for rank in range(processes)
        ]
        if done < kills:
            before = newest(folder)
            while newest(folder) == before and any(one.is_alive() for one in forked):
                time.sleep(0.01)
            time.sleep(chance.random() * 0.3)
            chance.choice(forked).kill()
        for one in forked:
            one.join(timeout=90)
            assert one.exitcode is not None, "a process that is left hangs"
        if (folder / "result.json").is_file() and not any(one.exitcode for one in forked):
            return done
        assert done < kills, "the run could not be resumed"
        done += 1


def newest(folder: Path) -> list[str]:
    """Names of the checkpoints in a run's folder."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*.safetensors"))


@pytest.mark.slow
def test_killed_again_and_again(still: list[str], tmp_path: Path) -> None:
    """20 kills of random processes: what is saved in the end is what nobody's death changed."""
    steps = [word for word in still if not word.startswith("train.max_steps")]
    words = [*steps, "method=autolora", "train.max_steps=40", "train.batch_size=4"]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    on(2, lambda: run(words, calm)["seed"])
    assert killed_and_resumed(words, killed, kills=20) == 20
    for key, tensor in tensors(calm).items():
        assert torch.equal(tensors(killed)[key], tensor), key
