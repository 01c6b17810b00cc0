"""Judge a run by its record, and say what to change."""
