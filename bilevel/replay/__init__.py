"""Take a lower level's steps again: what was recorded, other weights in place, the same randomness."""
