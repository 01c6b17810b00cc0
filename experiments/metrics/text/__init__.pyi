"""What scores of text offer to other packages."""

from .metric import TextMetric as TextMetric
from .registry import TEXT_METRICS as TEXT_METRICS
from .registry import score_text as score_text
from .tokenization import Tokenization as Tokenization
from .tokenization import chosen as chosen
