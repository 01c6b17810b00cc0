"""Models that a configuration can name."""

from .planted_model import PlantedModel as PlantedModel
from .spec import ModelSpec as ModelSpec
