"""Take steps in bf16, in fp16 with its scaler, and on frozen weights of 4 and 8 bits."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.gpu.job import RandomJob, engine_of, first_training
from benchmarks.gpu.levels import difference, levels, terms
from benchmarks.gpu.models import SMALL, causal
from benchmarks.gpu.rows import Failed, Row, Setting, Skipped
from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, Hypergradient, Penalty, Unrolled
from experiments.models.quantization import bitsandbytes_config, check_hardware
from problems import AutoLoRA

__all__ = ["rows"]

# Of the exact term: so many times the smallest relative step of the format. Measured on the CPU are
# 41, 1.2 and 6.4 times on this model, and on models of five other seeds at most 59, 22 and 73.
STEPS_OFF = {"fp32": 256, "bf16": 8, "fp16": 32}
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST = {name: STEPS_OFF[name] * torch.finfo(FORMATS[name]).eps for name in FORMATS}
STEPS = 8


def rows(setting: Setting) -> dict[str, Row]:
    """One a precision, and one a kind of quantisation."""

    def computed(precision: str) -> Row:
        def figures() -> dict[str, Any]:
            estimator = Unrolled()
            exact = terms(estimator, torch.device("cpu"))
            options: dict[str, Any] = {"dtype": torch.float32, "precision": precision}
            found = terms(estimator, setting.device, **options)
            values = {"unrolled off by": difference(found, exact)}
            if not values["unrolled off by"] <= MOST[precision]:
                raise Failed(f"off by more than {MOST[precision]:g}", values)
            engine, lower, upper = levels(estimator, setting.device, **options)
            before = [p.detach().clone() for p in lower.trainable_parameters()]
            for _ in range(STEPS):
                engine.train_step()
            moved = [
                float((p.detach() - b).norm())
                for p, b in zip(lower.trainable_parameters(), before, strict=True)
            ]
            values |= {"steps": STEPS, "moved": sum(moved)}
            if lower.scaler is not None:
                values["loss scale"] = lower.scaler.get_scale()
            finite = all(torch.isfinite(p).all() for p in upper.trainable_parameters())
            if not (finite and 0 < values["moved"] < float("inf")):
                raise Failed("the steps are not finite, or there are none", values)
            return values

        return figures

    def quantised(kind: str) -> Row:
        def figures() -> dict[str, Any]:
            try:
                check_hardware(kind)
            except UserError as error:
                raise Skipped(str(error)) from error
            with tempfile.TemporaryDirectory() as folder:
                causal(SMALL, torch.device("cpu")).save_pretrained(folder)

                def make() -> Any:
                    return AutoModelForCausalLM.from_pretrained(
                        folder,
                        quantization_config=bitsandbytes_config(kind, ["lm_head"]),
                        device_map={"": setting.device},
                    )

                values: dict[str, Any] = {}
                estimators: tuple[Hypergradient, ...] = (FiniteDifference(), Penalty(), Unrolled())
                for estimator in estimators:
                    job = RandomJob(
                        *(make, setting.device, SMALL),
                        length=32,
                        batch_size=4,
                        hypergradient=estimator,
                        precision="bf16" if setting.on_gpu else "fp32",
                    )
                    engine = engine_of(first_training(AutoLoRA(), job), setting.device)
                    for _ in range(2):
                        engine.train_step()
                    loss = float(engine.problems[0].last_loss)
                    values[estimator.name] = loss
                    if not loss < float("inf"):
                        raise Failed(f"the loss under {estimator.name} is {loss}", values)
            return values

        return figures

    return {
        **{precision: computed(precision) for precision in MOST},
        **{kind: quantised(kind) for kind in ("4bit", "8bit")},
    }
