"""Hypergradient estimators, one a file, all registered in Betty's ``jvp_fn_mapping``."""

from bilevel.hypergradient.alignment import Alignment as Alignment
from bilevel.hypergradient.base import Hypergradient as Hypergradient
from bilevel.hypergradient.base import estimator_of as estimator_of
from bilevel.hypergradient.base import register as register
from bilevel.hypergradient.betty_darts import BettyDarts as BettyDarts
from bilevel.hypergradient.cg import ConjugateGradient as ConjugateGradient
from bilevel.hypergradient.check import CheckResult as CheckResult
from bilevel.hypergradient.check import check as check
from bilevel.hypergradient.finite_difference import FiniteDifference as FiniteDifference
from bilevel.hypergradient.neumann import Neumann as Neumann
from bilevel.hypergradient.none import NoHypergradient as NoHypergradient
from bilevel.hypergradient.sama import Sama as Sama
from bilevel.hypergradient.unrolled import Unrolled as Unrolled
