"""The criteria by name."""

from .activation import Activation as Activation
from .base import Criterion as Criterion
from .base import ScoringData as ScoringData
from .gates import LearnedGates as LearnedGates
from .greedy import Greedy as Greedy
from .registry import CRITERIA as CRITERIA
from .saliency import Saliency as Saliency
from .singular import Singular as Singular
