"""Bottleneck adapters (Houlsby, Pfeiffer), to compare with."""

from .method import BottleneckAdapters as BottleneckAdapters
from .modules import BottleneckModel as BottleneckModel
from .modules import load_adapters as load_adapters
