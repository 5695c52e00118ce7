"""Model cards, `NAME.json`; how to write one is in `README.md`."""
