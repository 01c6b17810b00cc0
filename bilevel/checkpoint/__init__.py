"""Checkpoints: state files that are whole or not there, and a sentence when the disk is full."""

from bilevel.checkpoint.folder import CheckpointDamaged as CheckpointDamaged
from bilevel.checkpoint.folder import Checkpointer as Checkpointer
from bilevel.checkpoint.folder import load_state as load_state
from bilevel.checkpoint.folder import save_state as save_state
