"""Percentiles of a list of durations."""


def percentiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile, maximum and number; the values keep their unit."""
    ordered = sorted(values)
    if not ordered:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0, "count": 0}
    last = len(ordered) - 1
    return {
        "p50": ordered[last // 2],
        "p99": ordered[int(last * 0.99)],
        "max": ordered[-1],
        "count": len(ordered),
    }
