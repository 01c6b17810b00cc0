"""Find training examples whose labels may be wrong, and train without them."""
