"""Send a run's figures to TensorBoard, Weights & Biases, MLflow or Trackio while it trains.

By the clients of :mod:`accelerate.tracking`. They get what metrics.jsonl gets, line by line, under
``stage/kind/name``, and the scores at the end; whether they work offline is for each client's own
environment variables to say (``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI=...``).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

__all__ = ["FOLDER", "PROJECT", "Trackers", "check_installed", "opened"]

log = logging.getLogger(__name__)

FOLDER = "tensorboard"  # in the run's
PROJECT = "bilevel-finetuning"
# Of a line of metrics.jsonl, what says where the figures belong.
PLACE = ("stage", "step", "kind")


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are missing, before anything is loaded.

    Raises:
        UserError: names the package, and how it is installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"run.report_to={name} needs the package {name}: pip install '.[{name}]', or leave "
                "it out"
            )


class Trackers:
    """Trackers that have been started.

    Args:
        clients: of accelerate.
        before: lines of the run that were written before, by the run that this one resumes.
    """

    def __init__(self, clients: Sequence[GeneralTracker], before: Sequence[Mapping[str, Any]] = ()):
        self.clients = list(clients)
        self._last: dict[str, int] = {}
        for line in before:
            self._place(line["stage"], line["step"])

    def line(self, line: Mapping[str, Any]) -> None:
        """Report a line of metrics.jsonl; what is no number is left out.

        Some clients take no step twice, and steps begin anew with every stage: they are counted on.
        """
        figures = {
            f"{line['stage']}/{line['kind']}/{name}": value
            for name, value in line.items()
            if name not in PLACE and isinstance(value, int | float)
        }
        self._log(figures, self._place(line["stage"], line["step"]))

    def end(self, result: Mapping[str, Any]) -> None:
        """Report the scores of result.json."""
        scores = {f"test/{name}": value for name, value in result["metrics"].items()}
        scores |= {name: result[name] for name in ("test_loss", "train_loss", "adapter_parameters")}
        numbers = {k: v for k, v in scores.items() if isinstance(v, int | float)}
        self._log(numbers, sum(self._last.values()))

    def _place(self, stage: str, step: int) -> int:
        others = sum(last for name, last in self._last.items() if name != stage)
        self._last[stage] = max(step, self._last.get(stage, 0))
        return others + step

    def _log(self, figures: dict[str, Any], step: int) -> None:
        for client in list(self.clients):
            try:
                client.log(figures, step=step)
            except Exception as error:  # whatever a client of others' raises: a training goes on
                self.clients.remove(client)
                log.warning(
                    "run.report_to: %s failed and gets nothing from here on (%s: %s)",
                    *(client.name, type(error).__name__, error),
                )


@contextmanager
def opened(
    names: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Trackers]:
    """Start trackers, tell them the configuration, and end them in the end, however it comes.

    Args:
        names: of ``run.report_to``.
        folder: the run's; its name is the run's name with all trackers.
        config: of the run.
        before: lines of a run that this one resumes.
    """
    clients: list[GeneralTracker] = []
    try:
        for name in names:
            client = _client(name, folder)
            client.start()
            clients.append(client)
            client.store_init_configuration(_flat(config))
        yield Trackers(clients, before)
    finally:
        for client in clients:
            client.finish()


def _client(name: str, folder: Path) -> GeneralTracker:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    made: Any = LOGGER_TYPE_TO_CLASS[name]
    run = folder.resolve().name
    if name == "tensorboard":
        return made("", logging_dir=folder / FOLDER)
    if name == "mlflow":
        return made(PROJECT, run_name=run)
    if name == "wandb":
        return made(PROJECT, name=run, dir=str(folder))
    return made(PROJECT, name=run)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as dotted names; lists and None as text, which is all that clients take."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found
