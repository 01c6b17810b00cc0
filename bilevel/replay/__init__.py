"""Take a lower level's steps again: recorded, at other weights, with the same randomness."""
