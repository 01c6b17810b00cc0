"""Bilevel optimisation engine on Betty, with hypergradients that are right."""

import importlib.util

if importlib.util.find_spec("betty") is None:
    raise ImportError(
        "Betty is missing; its wheel claims Python < 3.11, so install it by itself: "
        "pip install --no-deps --ignore-requires-python betty-ml==0.2.1"
    )

from bilevel.callbacks import Callback as Callback
from bilevel.config import BilevelEngineConfig as BilevelEngineConfig
from bilevel.config import ProblemConfig as ProblemConfig
from bilevel.data import ResumableLoader as ResumableLoader
from bilevel.data import split as split
from bilevel.engine import BilevelEngine as BilevelEngine
from bilevel.errors import UserError as UserError
from bilevel.hypergradient import Hypergradient as Hypergradient
from bilevel.problem import BilevelProblem as BilevelProblem
from bilevel.problem import LowerProblem as LowerProblem
from bilevel.problem import UpperProblem as UpperProblem
