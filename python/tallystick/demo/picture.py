"""accuracy.png: accuracy by round of the three federations."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

from tallystick.errors import MissingExtraError

from .federation import Result
from .folder import write_whole
from .labels import headline, short_rule

__all__ = ["draw"]

INK, FAINT = "#333333", "#dddddd"
# Colours that colour-blind readers tell apart (Okabe and Ito); the wide grey line shows beneath the blue.
LINES = {
    "attack_free": ("#bbbbbb", "#777777", 6.0, ""),
    "mean": ("#d55e00", "#d55e00", 2.0, "o"),
    "robust": ("#0072b2", "#0072b2", 2.0, "o"),
}


def draw(result: Result) -> None:
    """Writes the picture into the output folder; MissingExtraError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise MissingExtraError('accuracy.png needs matplotlib: pip install "tallystick[demo]"') from e
    figure = Figure(figsize=(9, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _plot(axes, result)
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor="white")
    write_whole(result.folder.picture, content.getvalue())


def _plot(axes: Any, result: Result) -> None:
    numbers = [report.number for report in result.rounds]
    names = {
        "attack_free": "no attack, mean",
        "mean": "attack, mean",
        "robust": f"attack, {short_rule(result.rule)}",
    }
    ends = []
    for run, (color, text_color, width, marker) in LINES.items():
        values = [100 * report.accuracy[run] for report in result.rounds]
        shown = marker if len(numbers) <= 40 else ""
        axes.plot(numbers, values, color=color, linewidth=width, marker=shown, markersize=4)
        ends.append([values[-1], f"{values[-1]:.1f} %  {names[run]}", text_color])
    for height, words, color in _spread(ends):
        axes.annotate(words, (1.02, height), xycoords=("axes fraction", "data"), color=color, va="center")
    axes.set_ylim(-3, 103)
    axes.set_xlim(numbers[0] - 0.4, numbers[-1] + 0.4)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("round", color=INK)
    axes.set_ylabel("accuracy on held-out records, %", color=INK)
    axes.set_title(headline(result), loc="left", fontsize=11, color=INK, fontweight="bold", pad=12)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _spread(ends: list[list[Any]], gap: float = 7.0) -> list[list[Any]]:
    """Moves labels apart that would overlap; heights in percent, order kept."""
    ordered = sorted(ends, key=lambda end: end[0])
    for below, above in pairwise(ordered):
        above[0] = max(above[0], below[0] + gap)
    top = 101.0
    for end in reversed(ordered):
        end[0] = min(end[0], top)
        top = end[0] - gap
    return ordered
