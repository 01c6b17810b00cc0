"""Settings of LoRA for each module."""

from .levels import SetFineTuning as SetFineTuning
from .levels import by_group as by_group
from .model import check_answers as check_answers
from .model import fold_temperature as fold_temperature
from .model import follow as follow
from .record import HEAD as HEAD
from .record import FoundWith as FoundWith
from .record import ModuleSettings as ModuleSettings
from .record import SettingName as SettingName
from .record import Values as Values
