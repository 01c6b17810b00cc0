"""Sweeps: several runs of one command, here or on a cluster, chosen beforehand or searched for."""
