"""Tasks: data sets and metrics."""
