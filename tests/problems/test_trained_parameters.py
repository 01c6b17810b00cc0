"""What each method means to train, and nothing else, requires a gradient: in any number format."""

from __future__ import annotations

import re

import pytest
import torch

from problems import (
    IA3,
    AdaLoRA,
    AutoLoRA,
    AutoLoRASingular,
    BiDoRA,
    BiLoRA,
    BitFit,
    DeltaLoRA,
    DoRA,
    DyLoRA,
    FullFineTuning,
    LoRA,
    PrefixTuning,
    PromptTuning,
    SaLoRA,
    SaLoRABilevel,
)
from problems.adapters import BottleneckAdapters
from tests.problems.jobs import SmallJob, engine_of

HEAD = r"classifier\.(modules_to_save\.|weight|bias)"
FACTORS = r"\.lora_[AB]\."
MEANT = [
    (LoRA(), FACTORS),
    (DyLoRA(), FACTORS),
    (DeltaLoRA(), FACTORS),
    (DoRA(), rf"{FACTORS}|\.lora_magnitude_vector\."),
    (BiDoRA(), rf"{FACTORS}|\.lora_magnitude_vector\."),
    (AutoLoRA(), rf"{FACTORS}|logits"),
    (AutoLoRASingular(), rf"{FACTORS}|logits"),
    (BiLoRA(), rf"{FACTORS}|logits"),
    (SaLoRA(), rf"{FACTORS}|logits|^value$"),
    (SaLoRABilevel(), rf"{FACTORS}|logits|^value$"),
    (AdaLoRA(), r"\.lora_[ABE]\."),
    (IA3(), r"\.ia3_l\."),
    (PromptTuning(virtual_tokens=2), r"prompt_encoder\."),
    (PrefixTuning(virtual_tokens=2), r"prompt_encoder\."),
    (BottleneckAdapters(), r"\.(down|up)\.|LayerNorm"),
    (BitFit(), r"bias"),
    (FullFineTuning(train="top", top_layers=1), r"\.layer\.1\."),
]


class Typed(SmallJob):
    """The model in a number format, but for its head, which is loaded in fp32."""

    def __init__(self, dtype):
        super().__init__(precision="fp32" if dtype == torch.float32 else "bf16", epochs=9)
        self.dtype = dtype

    def build_model(self):
        model = super().build_model().to(self.dtype)
        model.classifier.float()
        return model


def named(problems):
    """Parameters by their name in the first problem that has them: the model's, of the lower."""
    found = {}
    for problem in problems:
        for name, p in problem.module.named_parameters():
            found.setdefault(id(p), (name, p))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("method", "meant"), MEANT, ids=lambda value: getattr(value, "name", ""))
def test_only_what_the_method_means_to_train_is_trained(method, meant, dtype):
    job = Typed(dtype)
    torch.manual_seed(0)
    training = method.stages()[0].prepare(job, None)
    engine = engine_of(training, steps=1)
    names = named(training.problems)
    own = [p for problem in training.problems for p in problem.trainable_parameters()]
    trained = {names[id(p)][0]: p for p in own}
    unmeant = [n for n in trained if not re.search(rf"{meant}|{HEAD}", n)]
    assert not unmeant
    assert all(any(re.search(part, n) for n in trained) for part in (meant, HEAD))
    assert {p.dtype for p in trained.values()} == {torch.float32}
    # Nor does a constant move; Delta-LoRA's second adapter is set, not trained.
    rest = [(n, p, p.detach().clone()) for n, p in names.values() if n not in trained]
    engine.run()
    assert not [n for n, p, was in rest if not torch.equal(p, was) and ".delta." not in n]
