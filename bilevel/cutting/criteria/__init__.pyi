"""The criteria by name."""

from .base import Criterion as Criterion
from .base import ScoringData as ScoringData
from .registry import CRITERIA as CRITERIA
from .singular import Singular as Singular
