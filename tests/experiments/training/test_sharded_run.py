"""engine.shard=base in whole runs: what is refused before a model loads, and equal results."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bilevel.distributed import each_once, setup
from bilevel.errors import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.job import execute
from tests.bilevel.ranks import of_each

SHARD = "engine.shard=base"
SMALL = [
    *("train.max_steps=3", "train.batch_size=8", "run.figures=false"),
    *("engine.evaluate_every=0", "engine.checkpoint_every=0", "model.dropout=0"),
]


@pytest.fixture
def launched(monkeypatch):
    """As in one of two processes that torchrun has started."""
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=full"], ["full", "method=lora"]),
        (["method=bitfit"], ["bitfit", "method=lora"]),
        (["method=delta_lora", "method.mode=in_place"], ["delta_lora", "factored"]),
        (["method=lora", "method.peft={init_lora_weights: pissa}"], ["init_lora_weights"]),
        (["method=lora", "method.peft={init_lora_weights: eva}"], ["init_lora_weights"]),
        (["method=bidora", "hypergradient=finite_difference"], ["bidora", "method.gamma=0"]),
        (["method=lora_cut"], ["lora_cut", "autolora"]),
        (["method=autolora_singular"], ["autolora_singular", "method=autolora"]),
        (["method=linear_probe"], ["linear_probe", "method=lora"]),
        (["method=lora", "run.probe=true"], ["run.probe"]),
        (["method=autolora", "method.horizon=0.9"], ["T1", "unroll_steps"]),
        (
            ["method=autolora", "hypergradient=unrolled", "hypergradient.product=double_backward"],
            ["unrolled", "product=central_difference"],
        ),
        (
            ["method=autolora", "engine.check_hypergradient_every=5"],
            ["check_hypergradient_every", "engine.shard=base"],
        ),
    ],
)
def test_what_needs_a_whole_base_is_refused_before_a_model_loads(launched, words, said):
    with pytest.raises(UserError, match="shard") as refused:
        Plan.of(compose_config([*words, "task=demo", "model=demo", SHARD], None))
    assert all(word in str(refused.value) for word in said), refused.value


def test_packed_weights_are_refused(launched, monkeypatch):
    from experiments.models import bitsandbytes_package

    monkeypatch.setattr(bitsandbytes_package, "check_installed", lambda kind: None)
    words = ["method=lora", "task=demo", "model=demo", "model.quantization=4bit", SHARD]
    with pytest.raises(UserError, match=r"shard.*model\.quantization"):
        Plan.of(compose_config(words, None))


def test_one_process_is_told_to_start_more():
    with pytest.raises(UserError, match=r"engine\.shard.*torchrun"):
        Plan.of(compose_config(["method=lora", "task=demo", "model=demo", SHARD], None))


def test_offload_needs_a_shared_base():
    with pytest.raises(UserError, match=r"engine\.offload.*engine\.shard"):
        Plan.of(compose_config(["task=demo", "model=demo", "engine.offload=true"], None))


@pytest.mark.parametrize(
    "words",
    [
        ["method=autolora"],
        ["method=autolora", "hypergradient=unrolled"],
        ["method=delta_lora"],
        ["method=bidora", "method.gamma=0"],
    ],
)
def test_what_goes_with_it_is_let_through(launched, words):
    assert Plan.of(compose_config([*words, "task=demo", "model=demo", SHARD], None))


def worked(count):
    """How often this process worked on its share of ``count`` items, and what came out."""
    setup("distributed", "gloo")
    done = []

    def work(item):
        done.append(item)
        return item * 10

    found = each_once(range(count), work, together=True)
    return found, len(done)


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_together_each_process_works_equally_often(count):
    (found, mine), (theirs, others) = of_each(worked, count)
    assert found == theirs == [10 * i for i in range(count)]
    assert mine == others == (count + 1) // 2


def run(words, folder):
    """One of the processes of a run; what result.json says, and the adapter."""
    plan = Plan.of(compose_config([*words, f"hydra.run.dir={folder}"], None))
    execute(plan, Path(folder))
    result = json.loads((Path(folder) / "result.json").read_text())
    adapter = load_file(Path(folder) / "adapter" / "adapter_model.safetensors")
    kept = ("metrics", "train_loss", "test_loss", "ranks")
    return {key: result[key] for key in kept}, adapter


def check_equal(words, folder):
    found = [
        of_each(run, [*words, *SMALL, *more], str(folder / name), seconds=600)[0]
        for name, more in (("whole", []), ("shared", [SHARD]))
    ]
    (whole, adapter), (shared, ours) = found
    assert shared == whole
    assert ours.keys() == adapter.keys()
    assert all(torch.equal(ours[name], adapter[name]) for name in adapter)


FEW = ["task.max_train=32", "task.max_test=40"]


@pytest.mark.slow
def test_a_run_with_a_shared_base_ends_in_the_same_adapter_and_scores(tmp_path):
    check_equal(["method=lora", "task=demo", "model=demo", *FEW], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method=autolora", "method.unroll_steps=1", "hypergradient=finite_difference"],
        ["method=adalora"],  # whose model is called past the root's hooks
        ["method=prompt"],  # whose embeddings are called before the root
        ["method=dora"],  # whose layers read the weights themselves
    ],
    ids=lambda words: words[0],
)
def test_methods_of_every_form(words, tmp_path):
    check_equal([*words, "task=demo", "model=demo", *FEW], tmp_path)


@pytest.mark.slow
def test_texts_are_written_together(tmp_path):
    few = ["task.max_train=32", "task.max_test=5"]
    check_equal(["method=lora", "task=demo_generation", "model=demo_causal", *few], tmp_path)
