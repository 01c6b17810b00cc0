"""A folder of checkpoints, and its files."""

from .folder import CheckpointDamaged as CheckpointDamaged
from .folder import Checkpointer as Checkpointer
from .folder import load_state as load_state
from .folder import save_state as save_state
