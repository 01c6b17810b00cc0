"""One run: its stages trained, watched, evaluated and taken up again."""
