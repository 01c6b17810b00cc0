"""Zero-shot style transfer by an instruction-tuned model; the program is `__main__`."""
