"""What a model is, and how one runs."""
