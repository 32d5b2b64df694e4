"""How much effort a system needs for a recall: looked for on queries that are not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.peers.adapter import Effort
    from benchmarks.peers.results import Point

ENOUGH = 0.995  # of recall: more effort than that is of no interest


def climb(
    ladders: Sequence[Sequence[Effort]], measure: Callable[[Effort], Point], enough: float
) -> list[list[Point]]:
    """Return the measured points of each ladder, from its first rung until recall is `enough`."""
    climbed = []
    for ladder in ladders:
        points: list[Point] = []
        for effort in ladder:
            points.append(measure(effort))
            if points[-1].recall >= enough:
                break
        climbed.append(points)
    return climbed


def choose(climbed: Sequence[Sequence[Point]], level: float) -> tuple[Point, bool]:
    """Return the point to measure at, and whether it reaches `level`.

    It is the lowest rung of a ladder that reaches the level, the fastest one of several ladders; if
    none reaches it, the one with the most recall.
    """
    lowest = [
        next((point for point in points if point.recall >= level), None) for points in climbed
    ]
    reaching = [point for point in lowest if point is not None]
    if reaching:
        return max(reaching, key=lambda point: point.qps), True
    everything = [point for points in climbed for point in points]
    return max(everything, key=lambda point: point.recall), False
