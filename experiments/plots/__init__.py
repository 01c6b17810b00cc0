"""Pictures of runs, one kind a file; all of them read files only."""
