"""What watches a run: progress, metrics, the guard against non-finite values, checkpoints."""

from bilevel.callbacks.callback import Callback as Callback
from bilevel.callbacks.guard import NonFiniteError as NonFiniteError
from bilevel.callbacks.guard import NonFiniteGuard as NonFiniteGuard
from bilevel.callbacks.metrics import MetricsWriter as MetricsWriter
from bilevel.callbacks.progress import ProgressBar as ProgressBar
from bilevel.callbacks.saving import CheckpointEvery as CheckpointEvery
