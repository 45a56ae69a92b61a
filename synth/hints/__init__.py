"""Knowledge-point hints: start with hints.py."""
