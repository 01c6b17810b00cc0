"""What methods share: their two kinds, their optimisers, and what the application gives them."""
