"""What methods share: the two kinds of method, optimisers, what passes to the application and back."""
