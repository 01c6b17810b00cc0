"""Count the host's waits for the device in a step of plain LoRA and of all that has two levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.methods import PLAIN, TWO_LEVELS, method_engine
from benchmarks.gpu.models import SMALL
from benchmarks.gpu.rows import Failed, NotMeasured, Row, Setting
from benchmarks.gpu.waiting import by_dispatch, by_driver, counters
from bilevel import BilevelEngine, Callback, hypergradient
from bilevel.callbacks import NonFiniteGuard
from bilevel.callbacks.losses import LossMeans
from bilevel.hypergradient import Hypergradient
from problems import AutoLoRA

__all__ = ["ALLOWED", "ESTIMATORS", "others", "rows", "waits"]

ESTIMATORS: dict[str, Hypergradient] = {
    "none": hypergradient.NoHypergradient(),
    "finite_difference, central": hypergradient.FiniteDifference(difference="central"),
    "finite_difference, forward": hypergradient.FiniteDifference(difference="forward"),
    "betty_darts": hypergradient.BettyDarts(),
    "sama": hypergradient.Sama(),
    "alignment": hypergradient.Alignment(),
    "neumann": hypergradient.Neumann(),
    "cg": hypergradient.ConjugateGradient(),
    "nystrom": hypergradient.Nystrom(rank=3),
    "soba": hypergradient.Soba(),
    "penalty": hypergradient.Penalty(),
    "penalty, lambda by BOME's rule": hypergradient.Penalty(eta=0.5),
    "forward": hypergradient.Forward(directions=2),
    "unrolled, recomputed": hypergradient.Unrolled(keep_graph=False),
    "unrolled, central difference": hypergradient.Unrolled(product="central_difference"),
}
# Rows with a wait that there is no way around, and its reason.
ALLOWED = {
    "autolora, nystrom": "a solver reads whether it has converged, once an upper step",
    "autolora, betty_darts": "Betty's own routine as it is, once an upper step",
}
THEIRS = "transformers/"  # reads the attention mask in each forward pass, to choose a kernel
# These read rates and step counts only where they are on the host anyway, as on a CPU all is.
HOST = ("bilevel/step_settings.py", "bilevel/hypergradient/optimizer_state.py")
WARM_UP = 3


class Watching(Callback):
    """What watches every step of a run, but for what is read now and then."""

    def __init__(self) -> None:
        self.guard, self.losses = NonFiniteGuard(every=10**6), LossMeans()
        self.guard.check = lambda: None  # type: ignore[method-assign]

    def on_gradient(self, problem: Any, loss: Any) -> None:
        """Look at loss and gradients."""
        self.guard.on_gradient(problem, loss)
        self.losses.add(problem, loss)


def waits(engine: BilevelEngine, on_gpu: bool) -> Counter[str]:
    """Places and numbers of the waits in one global step, after some that make what is kept."""
    engine.callbacks.append(Watching())
    for _ in range(WARM_UP):
        engine.train_step()

    def on_host() -> set[int]:
        return counters(p.optimizer for p in engine.problems)

    with by_driver() if on_gpu else by_dispatch(on_host) as found:
        engine.train_step()
    return found


def others(found: Counter[str]) -> dict[str, int]:
    """Those that are not transformers' own."""
    return {place: count for place, count in found.items() if not place.startswith(THEIRS)}


def rows(setting: Setting) -> dict[str, Row]:
    """Plain LoRA, every method on two levels, and AutoLoRA under every estimator."""

    def row(name: str, make: Callable[[], BilevelEngine]) -> Row:
        def figures() -> dict[str, Any]:
            found = waits(make(), setting.on_gpu)
            mine = others(found)
            if not setting.on_gpu:
                mine = {place: n for place, n in mine.items() if not place.startswith(HOST)}
            values: dict[str, Any] = {
                "ours": sum(mine.values()),
                "transformers": sum(found.values()) - sum(others(found).values()),
                "places": dict(found),
            }
            if name in ALLOWED:
                values["why"] = ALLOWED[name]
            elif mine:
                raise Failed(f"a step waits for the device in {', '.join(mine)}", values)
            if not setting.on_gpu:
                raise NotMeasured("no GPU; counted by what is dispatched on the CPU", values)
            return values

        return figures

    def engine(method: Any, estimator: Any = None) -> Callable[[], BilevelEngine]:
        return lambda: method_engine(
            *(method, setting.device, SMALL),
            length=16,
            batch_size=4,
            precision="bf16" if setting.on_gpu else "fp32",
            hypergradient=estimator,
        )

    made = {name: engine(method) for name, method in {"lora": PLAIN, **TWO_LEVELS}.items()}
    for name, estimator in ESTIMATORS.items():
        made[f"autolora, {name}"] = engine(AutoLoRA(), estimator)
    return {name: row(name, make) for name, make in made.items()}
