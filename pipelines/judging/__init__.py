"""Judges: who of a recipe's models decides about rows, and how often it is right on cases whose truth is known."""
