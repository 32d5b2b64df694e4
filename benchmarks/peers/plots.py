"""Pictures of a run, from what its JSON holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers.registry import OWN
from benchmarks.peers.table import measured
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (9.0, 5.4)
DOTS = 100
RECALL_MIN = 0.8
STRONG, PALE = (colormaps["tab20"].colors[first::2] for first in (0, 1))
COLOURS = [*STRONG[:3], *STRONG[4:], *PALE[:3], *PALE[4:]]  # all but the reds
OWN_COLOUR = "#c0152f"
STYLE = {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}


def draw(document: dict[str, Any], directory: Path) -> list[Path]:
    """Write recall against speed, and the time until rows can be searched through the index."""
    directory.mkdir(parents=True, exist_ok=True)
    what = f"{document['rows']}x{document['dimension']}"
    title = f"{document['rows']:,} x {document['dimension']}, {document['cpus']} processors"
    systems = measured(document["systems"])
    with rc_context(STYLE):
        return [
            _curves(systems, title, directory / f"peers-{what}-recall.png"),
            _bars(systems, title, directory / f"peers-{what}-searchable.png"),
        ]


def _curves(systems: list[dict[str, Any]], title: str, path: Path) -> Path:
    figure = Figure(SIZE, DOTS, layout="constrained")
    axes = figure.subplots()
    for at, system in enumerate(systems):
        points = frontier([point for point in system["points"] if point["below"] is None])
        points = [point for point in points if point["recall"] >= RECALL_MIN]
        own = system["name"] == OWN
        axes.plot(
            [point["recall"] for point in points],
            [point["qps"] for point in points],
            marker="o",
            markersize=5 if own else 3.5,
            linewidth=2.6 if own else 1.3,
            color=_colour(system, at),
            zorder=3 if own else 2,
            label=system["title"],
        )
    axes.set(yscale="log", xlabel="recall@10", ylabel="queries a second, one client", title=title)
    _plain_ticks(axes.yaxis)
    figure.legend(loc="outside right center", frameon=False)
    return _save(figure, path)


def frontier(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points that no other beats in both recall and speed, by rising recall."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda item: (-item["recall"], -item["qps"])):
        if not best or point["qps"] > best[-1]["qps"]:
            best.append(point)
    return best[::-1]


def _bars(systems: list[dict[str, Any]], title: str, path: Path) -> Path:
    figure = Figure(SIZE, DOTS, layout="constrained")
    axes = figure.subplots()
    lines = sorted(systems, key=lambda system: -system["searchable"])
    seconds = [system["searchable"] for system in lines]
    colours = [OWN_COLOUR if system["name"] == OWN else "#8a97a8" for system in lines]
    bars = axes.barh([system["title"] for system in lines], seconds, color=colours)
    axes.bar_label(bars, [f"{value:.3g} s" for value in seconds], padding=3)
    axes.set(xscale="log", xlabel="seconds until every row is durable and in the index")
    axes.set_title(title)
    _plain_ticks(axes.xaxis)
    axes.set_xlim(right=max(seconds) * 2)
    axes.grid(visible=False, axis="y")
    return _save(figure, path)


def _plain_ticks(axis: Any) -> None:
    """Make a logarithmic axis say 1, 2, 5, 10 and so on."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _colour(system: dict[str, Any], at: int) -> Any:
    return OWN_COLOUR if system["name"] == OWN else COLOURS[at % len(COLOURS)]


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Software": None})
    return path
