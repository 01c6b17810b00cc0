"""The callbacks, and what they derive from."""

from .callback import Callback as Callback
from .guard import NonFiniteError as NonFiniteError
from .guard import NonFiniteGuard as NonFiniteGuard
from .metrics import MetricsWriter as MetricsWriter
from .progress import ProgressBar as ProgressBar
from .saving import CheckpointEvery as CheckpointEvery
