"""Every method's run, killed by SIGKILL and resumed, ends as one left alone, bit for bit.

One list for all methods: a new one adds its name here, with the options that make it quick.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.config.composition import compose_config
from experiments.run import main
from tests.experiments.cli.test_resume import killed_at

# Method, and options that put more of it under way when it is killed.
METHODS: dict[str, tuple[str, list[str]]] = {
    "bilora": (
        "bilora",
        ["method.prune_below=0.25", "hypergradient=unrolled", "method.unroll_steps=2"],
    ),
    "bilora_binary": ("bilora_binary", ["method.upper_steps=2", "method.roll_back=true"]),
    "bidora": ("bidora", ["hypergradient=unrolled", "method.unroll_steps=2"]),
    "bidora_retrain": ("bidora", ["method.retrain=true"]),
    "delta_lora": ("delta_lora", ["method.start_step=2", "method.lora_dropout=0.1"]),
    "delta_lora_in_place": ("delta_lora", ["method.mode=in_place", "method.start_step=2"]),
    "adalora": ("adalora", ["train.gradient_accumulation=2"]),
    "dylora": ("dylora", ["method.frozen=true"]),
    "salora": ("salora", ["method.start=0.4", "method.end=0.8"]),
    "salora_bilevel": (
        "salora_bilevel",
        ["method.start=0.4", "method.end=0.8", "hypergradient=unrolled", "method.unroll_steps=2"],
    ),
    "autolora_singular": (
        "autolora_singular",
        ["method.start=0.3", "method.end=0.9", "method.rotate_every=2", "method.unroll_steps=2"],
    ),
    "autolora_hard_concrete": (
        "autolora_hard_concrete",
        ["method.start=0.3", "method.end=0.9", "method.parameter_budget=0.5"],
    ),
    "example_weights": ("example_weights", ["task=demo_noisy", "method.unroll_steps=2"]),
    "example_weights_in_parts": (
        "example_weights",
        ["task=demo_noisy", "train.gradient_accumulation=2", "method.roll_back=true"],
    ),
    "source_weights": ("source_weights", ["task=demo_sources", "method.unroll_steps=2"]),
    "source_weights_drawn": (
        "source_weights",
        ["task=demo_sources", "method.sampling=draw", "train.gradient_accumulation=2"],
    ),
    "learned_settings": ("learned_settings", ["method.unroll_steps=2"]),
    "random_settings": ("random_settings", ["method.trials=2"]),
    "lora_pissa": (
        "lora",
        [
            "method.peft={init_lora_weights: pissa_niter_4, use_rslora: true}",
            "train.lora_plus_ratio=4",
        ],
    ),
    "lora_cut_eva": ("lora_cut", ["method.peft.init_lora_weights=eva", "method.finish_epochs=1"]),
    "full": ("full", ["method.optimizer.lr=1e-3"]),
    "bitfit": ("bitfit", []),
    "dora": ("dora", ["method.lora_dropout=0.1", "train.class_weights=balanced"]),
    "ia3": ("ia3", []),
    "prompt": ("prompt", []),
    "prefix": ("prefix", ["method.projection=5"]),
    "houlsby": ("houlsby", []),
    "pfeiffer": ("pfeiffer", []),
}

# One of each kind: two levels, three problems with a window, a budget, a weight that moves, a PEFT
# adapter, a whole model, adapters of our own. Two stages, as of bidora_retrain, are in test_resume.
# The others take `make test-all`.
KINDS = {
    *("bilora", "salora_bilevel", "adalora", "autolora_singular", "delta_lora"),
    *("dora", "bitfit", "houlsby", "lora_pissa"),
}


def traces(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without times and places."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "processor_seconds", "peak_memory_mib", "adapter_dir", "model_dir"):
        result.pop(key, None)
    return {
        "metrics": [{k: v for k, v in x.items() if k != "seconds"} for x in lines],
        "result": result,
        **{
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*.safetensors"))
            if "checkpoints" not in path.parts
        },
    }


@pytest.mark.parametrize(
    "name",
    [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_killed_and_resumed(name: str, tmp_path: Path, quick: list[str]) -> None:
    method, options = METHODS[name]
    if "rank" not in compose_config([f"method={method}"]).method:
        quick = [word for word in quick if not word.startswith("method.rank=")]
    words = [*quick, f"method={method}", "run.figures=false", "train.max_steps=8", *options]
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    main([*words, f"hydra.run.dir={undisturbed}"])
    # After the checkpoint at step 4, and not at one.
    killed_at(
        ("bilevel.engine", "BilevelEngine", "train_step", 6, True),
        [*words, f"hydra.run.dir={folder}"],
    )
    assert not (folder / "result.json").exists()
    main([f"run.resume={folder}"])
    expected = traces(undisturbed)
    assert traces(folder) == expected
    assert any(name.startswith(("adapter", "model")) for name in expected)
