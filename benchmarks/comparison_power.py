"""Count how often a comparison calls equal methods different, and finds a difference there is.

    python -m benchmarks.comparison_power [COMPARISONS]

Two methods are run with S seeds each and scored on the same N = 872 examples (SST-2's test set).
First the differences are Gaussian, with parts of seeds, examples and the rest of several sizes;
then answers are right or wrong as they were with LoRA on SST-2, 2,000 training examples, five seeds
(accuracy 0.83; two seeds disagree on 6.6 % of the examples; standard deviation of the accuracy over
seeds 0.009). Rows of the tables:

    here            experiments.metrics.crossed
    Satterthwaite   the same variance, one t with Satterthwaite's degrees of freedom
    bootstrap       percentiles of draws of the seeds and of the examples
    seeds           Student's t over the seeds' mean differences
    examples        Student's t over the examples' mean differences

Numbers are percent of the comparisons (10,000 unless told) that are called different at 5 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from experiments.metrics.crossed import bootstrapped, crossed
from experiments.metrics.resampled import Resampled, binary_f1

EXAMPLES = 872
ACCURACY = 0.83
DISAGREE = 0.066  # of two seeds of one method
SEED_SD = 0.0068  # of the accuracy, besides what disagreement alone makes of it
DRAWS = 200
# Standard deviations of seeds, examples and the rest.
SPREADS = [(0, 1, 0.5), (0.05, 1, 0.5), (0.2, 1, 0.5), (0.05, 0.3, 1), (1, 0, 0.1), (0, 0, 1)]

Table = np.ndarray  # (S, N) differences


def satterthwaite(table: Table) -> bool:
    """The usual way with a sum of mean squares."""
    seeds, examples = table.shape
    mean, by_seed, by_example = table.mean(), table.mean(1), table.mean(0)
    rest = table - by_seed[:, None] - by_example + mean
    squares = np.array(
        [
            examples * by_seed.var(ddof=1),
            seeds * by_example.var(ddof=1),
            -(rest**2).sum() / ((seeds - 1) * (examples - 1)),
        ]
    )
    total = squares.sum()
    if total <= 0:
        return bool(mean != 0)
    freedom = np.array([seeds - 1, examples - 1, (seeds - 1) * (examples - 1)])
    degrees = total**2 / (squares**2 / freedom).sum()
    half = special.stdtrit(degrees, 0.975) * (total / table.size) ** 0.5
    return bool(abs(mean) > half)


def both_drawn(table: Table, counts: np.ndarray, rng: np.random.Generator) -> bool:
    """The percentile bootstrap over seeds and examples."""
    drawn = rng.integers(0, len(table), (len(counts), len(table)))
    means = (counts @ table.T / table.shape[1])[np.arange(len(counts))[:, None], drawn].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return bool(low > 0 or high < 0)


def over_one(values: np.ndarray) -> bool:
    """Student's t of a mean."""
    half = special.stdtrit(len(values) - 1, 0.975) * (values.var(ddof=1) / len(values)) ** 0.5
    return bool(abs(values.mean()) > half)


def gaussian(rng: np.random.Generator, seeds: int, spread: tuple[float, float, float]) -> Table:
    """Differences whose mean is 0."""
    sizes = ((seeds, 1), (1, EXAMPLES), (seeds, EXAMPLES))
    return np.asarray(sum(rng.normal(0, sd, n) for sd, n in zip(spread, sizes, strict=True)))


class Answers:
    """Right and wrong answers by a latent normal: right where example + seed + noise is above.

    Args:
        of_method: share of the examples' part that is the method's own, so that two equally good
            methods are good at different examples.
    """

    def __init__(self, of_method: float = 0.0) -> None:
        self.of_method = of_method
        self.level = float(stats.norm.ppf(ACCURACY))
        self.shared = self._correlation()
        slope = float(stats.norm.pdf(self.level))
        self.seed_sd = SEED_SD / slope

    def _correlation(self) -> float:
        """Of the latent values of two seeds, so that they disagree as often as was measured."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            both = stats.multivariate_normal([0, 0], [[1, middle], [middle, 1]])
            disagree = 2 * (ACCURACY - float(both.cdf([self.level, self.level])))
            low, high = (middle, high) if disagree > DISAGREE else (low, middle)
        return low

    def drawn(
        self, rng: np.random.Generator, seeds: int, better: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two methods' (S, N) right answers, the first with an accuracy that is ``better``."""
        common = rng.normal(size=EXAMPLES) * (self.shared * (1 - self.of_method)) ** 0.5
        found = []
        for more in (better, 0.0):
            own = rng.normal(size=EXAMPLES) * (self.shared * self.of_method) ** 0.5
            seed = rng.normal(size=(seeds, 1)) * self.seed_sd
            rest = rng.normal(size=(seeds, EXAMPLES)) * (1 - self.shared) ** 0.5
            level = special.ndtri(ACCURACY + more) * (1 + self.seed_sd**2) ** 0.5
            found.append(common + own + seed + rest + level > 0)
        return found[0], found[1]


def rates(draw: Callable[[np.random.Generator], Table], comparisons: int) -> dict[str, float]:
    """How often each way calls a difference, in percent."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(EXAMPLES, [1 / EXAMPLES] * EXAMPLES, size=DRAWS).astype(float)
    called = dict.fromkeys(("here", "Satterthwaite", "bootstrap", "seeds", "examples"), 0)
    for _ in range(comparisons):
        table = draw(rng)
        called["here"] += crossed(table).shown
        called["examples"] += over_one(table.mean(0))
        if len(table) > 1:
            called["Satterthwaite"] += satterthwaite(table)
            called["bootstrap"] += both_drawn(table, counts, rng)
            called["seeds"] += over_one(table.mean(1))
    return {name: 100 * n / comparisons for name, n in called.items()}


def f1_rate(answers: Answers, seeds: int, comparisons: int, better: float = 0.0) -> float:
    """How often F1 over half of the examples in class 1 is called different, in percent."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(EXAMPLES, [1 / EXAMPLES] * EXAMPLES, size=DRAWS).astype(float)
    labels = np.arange(EXAMPLES) % 2
    called = 0

    def scored(right: np.ndarray) -> Resampled:
        return binary_f1(np.where(right, labels, 1 - labels), labels)

    for _ in range(comparisons):
        first, second = answers.drawn(rng, seeds, better)
        pairs = [(scored(a), scored(b)) for a, b in zip(first, second, strict=True)]
        values = np.array([a.value - b.value for a, b in pairs])
        drawn = np.stack([a.score(counts) - b.score(counts) for a, b in pairs], axis=1)
        called += bootstrapped(values, drawn, EXAMPLES).shown
    return 100 * called / comparisons


def main(comparisons: int) -> None:
    """Print all tables."""
    print("no difference, Gaussian: seeds, (sd of seeds, examples, rest), percent called different")
    for seeds in (3, 5):
        for spread in SPREADS:
            found = rates(lambda rng, s=seeds, w=spread: gaussian(rng, s, w), comparisons)  # type: ignore[misc]
            print(seeds, spread, {name: round(rate, 1) for name, rate in found.items()}, flush=True)
    print("right and wrong answers: seeds, share of the examples' part that is each method's own")
    for own in (0.0, 0.1):
        answers = Answers(own)
        for seeds in (1, 3, 5):
            for better in (0.0, 0.01, 0.02, 0.05):

                def draw(
                    rng: np.random.Generator,
                    a: Answers = answers,
                    s: int = seeds,
                    d: float = better,
                ) -> Table:
                    first, second = a.drawn(rng, s, d)
                    return first.astype(float) - second

                found = rates(draw, comparisons)
                said = {name: round(rate, 1) for name, rate in found.items() if rate}
                print(seeds, own, f"difference {better}", said, flush=True)
    print("F1: seeds, percent called different without a difference, and at 0.02")
    for seeds in (3, 5):
        none = f1_rate(Answers(), seeds, comparisons)
        some = f1_rate(Answers(), seeds, comparisons // 10, 0.02)
        print(seeds, round(none, 1), round(some, 1), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2 or any(not word.isdigit() for word in sys.argv[1:]):
        raise SystemExit(__doc__)
    main(int(sys.argv[1]) if len(sys.argv) == 2 else 10_000)
