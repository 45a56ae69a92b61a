"""Petri-net traces: reasoning as a sound net. Start with net.py."""
