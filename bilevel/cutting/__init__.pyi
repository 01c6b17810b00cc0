"""Criteria, budgets, and the frontier of loss against parameters."""

from .budget import Budget as Budget
from .criteria import CRITERIA as CRITERIA
from .criteria import Criterion as Criterion
from .criteria import ScoringData as ScoringData
from .cut import Cut as Cut
from .cut import cut as cut
from .frontier import Frontier as Frontier
from .losses import Losses as Losses
from .ranking import Ranking as Ranking
