"""BIDS in and out: which images, which names, which metadata; no arrays, no engines."""
