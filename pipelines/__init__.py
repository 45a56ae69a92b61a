"""The way through, from problems to a versioned dataset. Start reading in `build.py`."""
