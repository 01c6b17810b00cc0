"""Read data files as people have them, and say which row is wrong."""
