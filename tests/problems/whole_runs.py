"""The hypergradient of the gates' logits, against differences of the loss of whole runs."""

from __future__ import annotations

import torch

from bilevel.hypergradient import NoHypergradient, Unrolled
from tests.problems.jobs import ExactJob, train


class Listening(ExactJob):
    """Keeps the gradients that the upper level steps with; what is drawn at random, from 99 on."""

    def run(self, training):
        self.gradients = []
        training.problems[1].gradient_hooks.append(
            lambda problem, loss: self.gradients.append(problem.module.logits.grad.clone())
        )
        torch.manual_seed(99)
        return super().run(training)


def first_gradient(method, estimator):
    """What the estimator gives in a training of one upper step."""
    job = Listening(estimator, n=64, max_steps=1)
    train(method, job)
    (gradient,) = job.gradients
    return gradient


def assert_unrolled_is_exact(method, loss):
    """`unrolled` is within 1e-5 of a central difference (h = 1e-5) of ``loss(shift of logits)``.

    Both are far from the direct partial alone: the difference sees the implicit term.
    """
    h = 1e-5
    expected = torch.zeros(4, 2, dtype=torch.float64)
    for index in range(8):
        shift = torch.zeros(8, dtype=torch.float64)
        shift[index] = h
        shift = shift.view(4, 2)
        expected.view(-1)[index] = (loss(shift) - loss(-shift)) / (2 * h)
    exact, direct = first_gradient(method, Unrolled()), first_gradient(method, NoHypergradient())
    error = (exact - expected).norm()
    assert error < 1e-5 * expected.norm()
    assert error < 1e-2 * (expected - direct).norm(), "the implicit term is not seen"
