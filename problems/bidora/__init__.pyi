"""BiDoRA: DoRA's direction at the lower level, its magnitude at the upper."""

from .levels import Directions as Directions
from .levels import direction_residual as direction_residual
from .levels import dora_layers as dora_layers
from .levels import magnitudes as magnitudes
from .method import BiDoRA as BiDoRA
