"""Name the label of a token or a place that nothing is learned of."""

__all__ = ["NO_LABEL"]

NO_LABEL = -100  # what the losses of torch and transformers pass over
