"""The estimators, what they derive from, and their check."""

from .accuracy import CheckResult as CheckResult
from .accuracy import check as check
from .alignment import Alignment as Alignment
from .base import Hypergradient as Hypergradient
from .base import register as register
from .betty_darts import BettyDarts as BettyDarts
from .cg import ConjugateGradient as ConjugateGradient
from .finite_difference import FiniteDifference as FiniteDifference
from .forward import Forward as Forward
from .horizon import Horizon as Horizon
from .horizon import find_horizon as find_horizon
from .neumann import Neumann as Neumann
from .none import NoHypergradient as NoHypergradient
from .nystrom import Nystrom as Nystrom
from .penalty import Penalty as Penalty
from .registry import estimator_of as estimator_of
from .sama import Sama as Sama
from .shared import check_double_backward as check_double_backward
from .soba import Soba as Soba
from .unrolled import Unrolled as Unrolled
