"""What the engine offers to other packages."""

from .callbacks import Callback as Callback
from .config import BilevelEngineConfig as BilevelEngineConfig
from .config import ProblemConfig as ProblemConfig
from .data import ResumableLoader as ResumableLoader
from .data import split as split
from .engine import BilevelEngine as BilevelEngine
from .errors import UserError as UserError
from .hypergradient import Hypergradient as Hypergradient
from .problem import BilevelProblem as BilevelProblem
from .problem import LowerProblem as LowerProblem
from .problem import UpperProblem as UpperProblem
from .replay.recording import Needs as Needs
from .settings import Count as Count
from .settings import Natural as Natural
from .settings import NonNegative as NonNegative
from .settings import Positive as Positive
from .settings import Settings as Settings
from .settings import Share as Share
from .settings import UnitInterval as UnitInterval
from .step_settings import StepSettings as StepSettings
