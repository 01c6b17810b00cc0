"""The demo's language, and the tiny model pretrained on it (`model/`)."""
