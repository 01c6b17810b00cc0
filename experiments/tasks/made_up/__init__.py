"""Made-up text with known answers, for the offline tasks."""
