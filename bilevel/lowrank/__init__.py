"""Gates on low-rank adapters."""
