"""Arguments to settings to exit code, and what a person sees."""
