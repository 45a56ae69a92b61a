"""Intervals of shares: what is known of a chance after so many trials."""

import math

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def wilson(mean: float, size: float, z: float = Z95) -> tuple[float, float]:
    """Wilson 1927: the score interval of a share `mean` of `size` trials; it never leaves [0, 1] and has width where all agree."""
    shrink = 1 + z**2 / size
    centre = (mean + z**2 / (2 * size)) / shrink
    half = z / shrink * math.sqrt(mean * (1 - mean) / size + z**2 / (4 * size**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if mean == 0 else low), (1.0 if mean == 1 else high)
