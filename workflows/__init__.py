"""The way through the steps: one image, a whole dataset, a group."""
