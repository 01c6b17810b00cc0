"""Compare methods over their seeds and test examples, by what their runs have left behind."""
