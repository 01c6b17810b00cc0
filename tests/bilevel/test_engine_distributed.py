"""Two gloo processes on halves of each batch, against one process on whole batches."""

import multiprocessing
import os
import socket
import traceback

import pytest
import torch
from accelerate.state import AcceleratorState

from bilevel.hypergradient import (
    Alignment,
    BettyDarts,
    ConjugateGradient,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
)
from tests.bilevel.text_toys import two_text_levels
from tests.bilevel.toys import STRICT, Recorder, flat, two_levels
from tests.bilevel.uneven import uneven_levels

pytestmark = STRICT

ESTIMATORS = [
    NoHypergradient(),
    FiniteDifference(difference="central"),
    FiniteDifference(difference="forward", scale="inner_lr"),
    Unrolled(),
    Unrolled(keep_graph=False),
    Unrolled(product="central_difference"),
    Neumann(iterations=2, alpha=0.5),
    ConjugateGradient(iterations=2),
    Sama(),
]


def outcomes(strategy):
    """Upper gradients and final parameters of a short run with each estimator."""
    found = {}
    for estimator in ESTIMATORS:
        for T1 in (1, 2):
            engine, lower, upper = two_levels(
                estimator,
                optimizer=lambda p: torch.optim.AdamW(p, lr=0.05),
                upper_optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
                unroll_steps=T1,
                clipping=0.2,
                steps=3,
                engine_options={"strategy": strategy},
            )
            recorder = Recorder(upper)
            engine.run()
            found[repr(estimator), T1] = [
                *(flat(g) for g in recorder.grads),
                flat(lower.trainable_parameters()),
                flat(upper.trainable_parameters()),
            ]
    engine, lower, upper = two_text_levels(
        Alignment(calibrate_every=2), dropout=0.0, steps=3, dtype=torch.float64, strategy=strategy
    )
    recorder = Recorder(upper)
    engine.run()
    found["alignment", 1] = [*(flat(g) for g in recorder.grads), flat(lower.trainable_parameters())]
    # Losses that are means over tags, of which the ranks have unlike numbers.
    for estimator in (*ESTIMATORS, BettyDarts()):
        for options in ({}, {"batch_size": 4, "gas": 2}):
            engine, lower, upper = uneven_levels(estimator, strategy=strategy, **options)
            recorder = Recorder(upper)
            engine.run()
            found[f"uneven {estimator!r}", options.get("gas", 1)] = [
                flat(recorder.grads[-1]),
                flat(lower.trainable_parameters()),
                flat(upper.trainable_parameters()),
            ]
    return found


def stopping(strategy):
    """Where every process is when the first one's validation stops improving."""
    scores = iter([1.0, 2.0])
    engine, *_ = two_levels(
        NoHypergradient(),
        steps=50,
        validation=lambda engine: {"loss": next(scores)},
        engine_options={
            "valid_step": 1,
            "early_stopping": True,
            "early_stopping_tolerance": 1,
            "strategy": strategy,
        },
    )
    engine.run()
    return engine.global_step


def worker(rank, port, queue, strategy):
    try:
        # What earlier tests left in the process that this one was forked from.
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            ACCELERATE_USE_CPU="true",
        )
        result = outcomes(strategy), stopping(strategy)
        # NumPy arrays: tensors would travel through shared memory that dies with the process.
        plain = {key: [t.numpy() for t in values] for key, values in result[0].items()}
        queue.put((rank, (plain, result[1]), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and is about processes on CPUs")
@pytest.mark.parametrize("strategy", ["distributed", "accelerate"])
def test_two_processes_are_one_on_the_joint_batch(strategy):
    expected = outcomes("cpu")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")  # importing everything again takes too long
    queue = context.Queue()
    processes = [
        context.Process(target=worker, args=(rank, port, queue, strategy)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        results = {}
        for _ in processes:
            rank, result, error = queue.get(timeout=120)
            assert error is None, error
            results[rank] = result
    finally:
        for process in processes:
            process.kill()
            process.join()
    for key, tensors in expected.items():
        for i, tensor in enumerate(tensors):
            ours, theirs = (torch.from_numpy(results[rank][0][key][i]) for rank in range(2))
            assert torch.equal(ours, theirs), f"ranks differ: {key}"
            assert torch.allclose(ours, tensor, rtol=1e-8, atol=1e-10), key
    assert [results[rank][1] for rank in range(2)] == [2, 2]
