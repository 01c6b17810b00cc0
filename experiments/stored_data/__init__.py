"""Keep examples and tokens of large data on the disk, as Arrow files that are memory-mapped."""
