"""Criteria, budgets, and the frontier of loss against parameters."""

from .budget import Budget as Budget
from .criteria import CRITERIA as CRITERIA
from .criteria import Criterion as Criterion
from .criteria import ScoringData as ScoringData
from .cut import Cut as Cut
from .cut import cut as cut
from .frontier import Frontier as Frontier
from .held_out import cut_by as cut_by
from .held_out import least_examples as least_examples
from .losses import Losses as Losses
from .options import CutOptions as CutOptions
from .ranking import Ranking as Ranking
