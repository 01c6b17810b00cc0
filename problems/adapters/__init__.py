"""Bottleneck adapters (Houlsby, Pfeiffer), to compare with."""

from problems.adapters.method import BottleneckAdapters as BottleneckAdapters
