"""Make a saved model stand by itself: tokenizer, labels, a model card, and a place on the hub."""
