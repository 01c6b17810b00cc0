"""A base that two gloo processes share out, against one that is whole; and what it costs."""

from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from bilevel import BilevelEngineConfig, distributed, sharding
from bilevel.checkpoint.state_file import load_state, save_state
from bilevel.distributed import World
from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    BettyDarts,
    ConjugateGradient,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Nystrom,
    Penalty,
    Sama,
    Soba,
    Unrolled,
)
from bilevel.sharding_cost import sharding_cost
from tests.bilevel.gathers import Gathers
from tests.bilevel.llama_toys import gated_llama, tiny_llama, two_llama_levels
from tests.bilevel.ranks import of_each
from tests.bilevel.toys import STRICT, Recorder, flat, two_levels

pytestmark = [
    *STRICT,
    pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and is about processes on CPUs"),
]

SHARDED = {"strategy": "distributed", "shard": "base"}
DIFFERENCE = "central_difference"
OTHERS = [
    NoHypergradient(),
    FiniteDifference(difference="central"),
    Sama(),
    Penalty(),
    Alignment(calibrate_every=0),
    Neumann(iterations=2, alpha=0.5, product=DIFFERENCE),
    ConjugateGradient(iterations=2, product=DIFFERENCE),
    Nystrom(product=DIFFERENCE),
    Soba(product=DIFFERENCE),
    BettyDarts(),
]


def outcome(estimator, engine_options, **options):
    """The last upper gradient and the final parameters of a short run."""
    engine, lower, upper = two_llama_levels(estimator, engine_options=engine_options, **options)
    assert sharding.is_sharded(lower.module) == ("shard" in engine_options)
    recorder = Recorder(upper)
    engine.run()
    return [
        flat(recorder.grads[-1]),
        flat(lower.trainable_parameters()),
        flat(upper.trainable_parameters()),
    ]


def outcomes(cases, engine_options):
    return [outcome(estimator, engine_options, **options) for estimator, options in cases]


def check_equal(cases, *, sharded=SHARDED):
    """Two processes with a shared base do what two do whose bases are whole."""
    ranks = of_each(outcomes, cases, sharded)
    whole, _ = of_each(outcomes, cases, {"strategy": "distributed"})
    for ours, theirs, expected, case in zip(*ranks, whole, cases, strict=True):
        for mine, other, tensor in zip(ours, theirs, expected, strict=True):
            assert torch.equal(mine, other), f"ranks differ: {case}"
            assert torch.allclose(mine, tensor, rtol=1e-9, atol=1e-11), case


def test_a_shared_base_trains_as_a_whole_one_in_one_process():
    cases = [(FiniteDifference(), {}), (Unrolled(product=DIFFERENCE), {"steps": 1})]
    ranks, alone = of_each(outcomes, cases, SHARDED), outcomes(cases, {"strategy": "cpu"})
    for ours, expected in zip([found for rank in ranks for found in rank], 2 * alone, strict=True):
        for mine, tensor in zip(ours, expected, strict=True):
            # No nearer, since Llama computes its norms in fp32 whatever its weights are in.
            assert torch.allclose(mine, tensor, rtol=1e-6, atol=1e-6)


def test_it_is_what_two_processes_do_with_whole_bases():
    # A text a process, some of them without a label that counts.
    check_equal([(FiniteDifference(), {"batch_size": 2, "gas": 2})])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", OTHERS, ids=lambda e: e.name)
def test_every_estimator_of_the_first_order(estimator):
    check_equal([(estimator, {})])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"tied": True}, {"head": ["lm_head"]}, {"upper_steps": 2}],
    ids=["tied", "trained head", "two upper steps"],
)
def test_models_and_steps_of_other_kinds(options):
    check_equal([(FiniteDifference(), options)])


def recomputing(model):
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})


@pytest.mark.slow
def test_with_gradient_checkpointing():
    check_equal([(FiniteDifference(), {"prepare": recomputing})])


@pytest.mark.slow
def test_with_parts_kept_by_the_cpu():
    check_equal([(FiniteDifference(), {})], sharded={**SHARDED, "offload": True})


def resumed(steps, folder):
    """Parameters after ``steps`` global steps, of a run that was stopped half-way if told so."""
    engine, lower, _ = two_llama_levels(FiniteDifference(), engine_options=SHARDED, steps=steps)
    if folder:
        half, *_ = two_llama_levels(FiniteDifference(), engine_options=SHARDED, steps=steps // 2)
        half.run()
        kept = Path(folder) / f"{half.world.rank}.safetensors"
        save_state(kept, half.state_dict())
        engine.load_state_dict(load_state(kept))
    engine.run()
    return flat(lower.trainable_parameters())


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path):
    (straight, _), (stopped, _) = (of_each(resumed, 4, where) for where in ("", str(tmp_path)))
    assert torch.equal(straight, stopped)


# ------------------------------------------------------------------ what it costs


def counted(options, step):
    """Bytes held, received and gathered at once: counted, and as the formula has them."""
    engine, lower, _ = two_llama_levels(
        FiniteDifference(), engine_options=SHARDED, dtype=torch.float32, steps=1, **options
    )
    base = sharding.frozen_base(lower.module)
    parts = [p.to_local().untyped_storage().nbytes() for p in base.values()]
    others = [p.nbytes for n, p in lower.module.named_parameters() if n not in base]
    batch = lower.get_batch_single_loader(0)
    torch.autograd.grad(lower.loss(batch), lower.trainable_parameters())
    with Gathers() as a_pass:
        torch.autograd.grad(lower.loss(batch), lower.trainable_parameters())
    with Gathers() as forward, torch.no_grad():
        lower.loss(batch)
    with Gathers() as steps:
        if step:
            engine.run()
    cost = sharding_cost(lower.module, 2)
    return {
        "held": (sum(parts) + sum(others), cost.held),
        "pass": (a_pass.received, cost.forward_backward),
        "forward": (forward.received, cost.forward),
        "step": (steps.received, 3 * cost.forward_backward * step),
        "most": (sum(parts) + sum(others) + a_pass.most, cost.most),
        "whole": (cost.whole + cost.others, cost.held),
    }


@pytest.mark.parametrize(
    "options", [{"inner": 33, "layers": 2}, {"head": ["lm_head"], "layers": 2}]
)
def test_the_formula_of_bytes_counts_right(options):
    for found in of_each(counted, options, False):
        assert found["held"][0] == found["held"][1]
        assert found["pass"][0] == found["pass"][1]
        assert found["forward"][0] == found["forward"][1]
        assert found["most"][0] <= found["most"][1]


@pytest.mark.slow
def test_a_process_never_holds_much_more_than_its_half():
    deep = {"layers": 72, "inner": 128, "r": 1, "unroll_steps": 1}
    for found in of_each(counted, deep, True, seconds=600):
        assert found["most"][0] <= 0.55 * found["whole"][0]
        # T1 = T2 = 1: three passes; the one that verifies gathers the root's norm once more.
        assert found["step"][0] == pytest.approx(found["step"][1], rel=1e-3)


def test_the_cost_is_the_same_before_and_after():
    model, _ = gated_llama(dtype=torch.float32)
    two, eight = sharding_cost(model, 2), sharding_cost(model, 8)
    assert (two.whole, two.trained) == (eight.whole, eight.trained)
    assert two.part == two.whole / 2
    assert eight.part >= two.whole / 8  # padded
    assert two.forward_backward == two.whole


# ------------------------------------------------------------------ what is gathered together


def test_groups_are_blocks_embeddings_and_the_rest():
    model, _ = gated_llama()
    found = sharding.groups(model)
    inner = model.get_base_model()
    embeddings = [[inner.model.embed_tokens], [inner.lm_head]]
    assert found == [[layer] for layer in inner.model.layers] + embeddings


def test_tied_embeddings_are_one_group():
    model = tiny_llama(tied=True).requires_grad_(False)
    assert sharding.groups(model)[-1] == [model.model.embed_tokens, model.lm_head]


def test_an_adapters_own_parameters_stay_whole_even_when_frozen():
    model = peft.get_peft_model(
        tiny_llama(), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.requires_grad_(False)
    base = sharding.frozen_base(model)
    assert base
    assert not any("lora_" in name for name in base)


def test_blocks_that_share_weights_are_refused():
    net = nn.Module()
    net.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    net.blocks[1][0].weight = net.blocks[0][0].weight
    net.requires_grad_(False)
    with pytest.raises(UserError, match=r"shard.*share weights"):
        sharding.groups(net)


# ------------------------------------------------------------------ where it computes


def devices():
    """Of a part on the CPU beside a whole parameter elsewhere; alone; and of no parts."""
    distributed.setup("distributed")
    net = nn.Module()
    net.part = nn.Parameter(distribute_tensor(torch.ones(2), init_device_mesh("cpu", (2,))))
    net.whole = nn.Parameter(torch.ones(2, device="meta"))
    mixed = sharding.device_of(net)
    del net.whole
    parts, whole = sharding.device_of(net), sharding.device_of(nn.Linear(2, 2))
    return [str(device) for device in (mixed, parts, whole)]


def test_it_is_where_whole_parameters_lie():
    assert of_each(devices) == [["meta", "cpu", "cpu"]] * 2


# ------------------------------------------------------------------ what is refused


def refusal(make):
    try:
        make()
    except UserError as error:
        return str(error)
    return "nothing was refused"


def twice():
    return two_llama_levels(Unrolled(product="double_backward"), engine_options=SHARDED)


def bettys():
    engine_options = {**SHARDED, "train_iters": 1}
    two_llama_levels(None, engine_options=engine_options, lower_type="darts")


def nothing_frozen():
    def prepare(model):
        model.requires_grad_(True)

    two_llama_levels(FiniteDifference(), engine_options=SHARDED, prepare=prepare)


def packed():
    def prepare(model):
        linear = model.get_base_model().model.layers[0].mlp.up_proj
        linear.weight = nn.Parameter(linear.weight.char(), requires_grad=False)

    two_llama_levels(FiniteDifference(), engine_options=SHARDED, prepare=prepare)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (twice, ["double_backward", "shard", "central_difference"]),
        (bettys, ["darts", "shard", "finite_difference"]),
        (nothing_frozen, ["shard", "frozen"]),
        (packed, ["shard", "quantisation", "up_proj"]),
    ],
)
def test_what_cannot_be_shared_out_is_said(make, words):
    for said in of_each(refusal, make):
        assert all(word in said for word in words), said


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(UserError, match=r"shard=base.*torchrun"):
        two_levels(NoHypergradient(), engine_options={"shard": "base"})
    with pytest.raises(UserError, match=r"shard=base.*torchrun"):
        sharding.shard_base(nn.Linear(2, 2).requires_grad_(False), World())


def test_options_that_do_not_go_together():
    with pytest.raises(UserError, match=r"shard.*null or base"):
        BilevelEngineConfig(shard="all")
    with pytest.raises(UserError, match=r"offload.*shard=base"):
        BilevelEngineConfig(offload=True)
