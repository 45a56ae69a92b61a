"""Versions on disk: how they are written, named, found, checked, shared and removed."""
