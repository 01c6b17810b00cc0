"""Predict with a fine-tuned model: what is read, what is said of it, what is written."""
