"""AdaLoRA: singular value decompositions whose ranks follow a falling budget."""

from .levels import SingularTriplets as SingularTriplets
from .method import AdaLoRA as AdaLoRA
