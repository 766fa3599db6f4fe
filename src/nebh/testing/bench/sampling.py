"""Pure arithmetic of measurements: medians, bootstrap intervals, bounds on a rate."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

DRAWS = 1000
SEED = 20240607


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie, interpolated. Raises ValueError for no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return quantile(values, 0.5)


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Return first / second of every pair."""
    return [first / second for first, second in pairs if second]


def bootstrap(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float] = median, *, draws: int = DRAWS
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic by drawing anew from the values; the same values give the same one."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (math.nan, math.nan)
    chance = random.Random(SEED)
    found = sorted(statistic(chance.choices(values, k=len(values))) for _ in range(draws))
    return quantile(found, 0.025), quantile(found, 0.975)


def upper_bound(failed: int, tries: int) -> float:
    """Return the share of failures that is exceeded with 5 % probability at most, having seen `failed` of `tries`
    (Poisson; 3 / tries for none)."""
    low, high = 0.0, failed + 10.0 * math.sqrt(failed + 1) + 10.0
    for _ in range(100):
        middle = (low + high) / 2
        seen = sum(math.exp(-middle + k * math.log(middle) - math.lgamma(k + 1)) for k in range(failed + 1))
        low, high = (middle, high) if seen > 0.05 else (low, middle)
    return high / tries if tries else 1.0
