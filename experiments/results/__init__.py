"""What a run leaves behind: result.json, the saved model, and reading both back."""
