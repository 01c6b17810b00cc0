"""Values of the two configurations that cannot be, and those of fp16's scaler."""

import pytest
from betty.configs import Config

from bilevel import BilevelEngineConfig, ProblemConfig
from bilevel.errors import UserError
from bilevel.hypergradient import NoHypergradient, Sama
from tests.bilevel.toys import STRICT, two_levels

pytestmark = STRICT


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (ProblemConfig, {"hypergradient": "sama"}, "'sama': give the name as type='sama'"),
        (ProblemConfig, {"hypergradient": Sama}, r"give an instance, Sama\(\)"),
        (ProblemConfig, {"hypergradient": 3}, "hypergradient must be an estimator, got 3"),
        (ProblemConfig, {"type": Sama()}, "type must be the name"),
        (ProblemConfig, {"unroll_steps": 2.5}, "unroll_steps must be a whole number.*2.5"),
        (ProblemConfig, {"steps": True}, "steps must be a whole number.*True"),
        (ProblemConfig, {"warmup_steps": 0.5}, "warmup_steps must be a whole number"),
        (ProblemConfig, {"initial_dynamic_scale": 0.0}, "initial_dynamic_scale must be more"),
        (ProblemConfig, {"scale_factor": 1.0}, "scale_factor more than 1"),
        (BilevelEngineConfig, {"train_iters": 2.5}, "train_iters must be a whole number.*2.5"),
        (BilevelEngineConfig, {"train_iters": -1}, "train_iters.*0 or more, got -1"),
        (BilevelEngineConfig, {"valid_step": -1}, "valid_step.*0 or more, got -1"),
        (BilevelEngineConfig, {"valid_step": 0.5}, "valid_step must be a whole number"),
        (BilevelEngineConfig, {"logger_type": "x"}, "none, tensorboard, wandb, got 'x'"),
    ],
)
def test_values_that_cannot_be(cls, options, words):
    with pytest.raises(UserError, match=words):
        cls(**options)


def test_the_configurations_are_not_exchanged():
    with pytest.raises(UserError, match="must be a ProblemConfig"):
        ProblemConfig.of(BilevelEngineConfig())
    with pytest.raises(UserError, match="must be a BilevelEngineConfig"):
        BilevelEngineConfig.of(ProblemConfig())


def test_the_scaler_of_fp16_is_as_configured():
    def scaler(**options):
        lower = two_levels(NoHypergradient(), lower_options={"precision": "fp16", **options})[1]
        return lower.scaler.get_scale(), lower.scaler.get_growth_factor()

    assert scaler(initial_dynamic_scale=8.0, scale_factor=4.0) == (8.0, 4.0)
    assert scaler() == (65536.0, 2.0)
    assert ProblemConfig.of(Config()).initial_dynamic_scale == 4096.0
