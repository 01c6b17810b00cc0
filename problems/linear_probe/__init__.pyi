"""A linear map on the frozen model's embeddings, which every fine-tuning should beat."""

from .method import LinearProbe as LinearProbe
from .model import ProbedModel as ProbedModel
from .model import load_probe as load_probe
