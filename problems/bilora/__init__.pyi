"""BiLoRA: singular vectors at the lower level, singular values at the upper."""

from .levels import SingularValues as SingularValues
from .levels import SingularVectors as SingularVectors
from .method import BiLoRA as BiLoRA
