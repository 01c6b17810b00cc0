"""Hypergradient estimators."""
