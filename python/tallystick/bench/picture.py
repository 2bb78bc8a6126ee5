"""The table of robustness as a heat map."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tallystick.demo.folder import write_whole
from tallystick.errors import MissingExtraError

from .report import heading, headline
from .robustness import MARGIN, Table

__all__ = ["draw", "require"]

INK, BAD, MIDDLE, GOOD = "#333333", "#b34700", "#f5efe6", "#0072b2"  # told apart by colour-blind readers


def require() -> None:
    """MissingExtraError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as e:
        raise MissingExtraError('the heat map needs matplotlib: pip install "tallystick[bench]"') from e


def draw(table: Table, path: Path) -> None:
    """Writes the heat map as PNG: rules down, the worst case and all attacks across."""
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rules, attacks = table.settings.rules, table.settings.attacks
    size = (2.6 + 0.62 * (len(attacks) + 1.3), 1.9 + 0.3 * len(rules))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    _plot(figure.add_subplot(), table)
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor="white")
    write_whole(path, content.getvalue())


def _plot(axes: Any, table: Table) -> None:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
    from matplotlib.patches import Rectangle

    colors = LinearSegmentedColormap.from_list("robustness", [BAD, MIDDLE, GOOD])
    edge = min(max(table.attack_free - MARGIN, 0.01), 0.99)  # the colours part where defence ends
    norm = TwoSlopeNorm(edge, 0.0, max(table.attack_free, edge + 0.01))
    rules, attacks = table.settings.rules, table.settings.attacks
    places = {attack: 1.3 + i for i, attack in enumerate(attacks)}  # a gap behind the worst column
    for y, rule in enumerate(rules):
        worst = table.worst(rule)
        for x, attack in [(0.0, worst), *((places[a], a) for a in attacks)]:
            value = table.mean(rule, attack)
            at = float(norm(value))
            color = colors(min(at, 1.0))
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=color, linewidth=0))
            held = table.defended(rule, attack)
            axes.text(
                x,
                y,
                f"{100 * value:.0f}" + ("" if held else " *"),
                ha="center",
                va="center",
                fontsize=8,
                color=INK if 0.22 < at < 0.8 else "white",
                fontweight="bold" if x == 0 else "normal",
            )
    axes.set_xlim(-0.5, max(places.values()) + 0.5)
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.set_xticks([0.0, *places.values()], ["worst", *(heading(a).replace(" ", "\n") for a in attacks)])
    axes.set_yticks(range(len(rules)), rules)
    axes.xaxis.tick_top()
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(headline(table.settings), loc="left", fontsize=11, color=INK, fontweight="bold", pad=12)
    axes.set_xlabel(
        f"Accuracy on held-out records, %. * not defended: more than {100 * MARGIN:.0f} points below "
        f"{100 * table.attack_free:.0f}, the mean without an attack.",
        loc="left",
        fontsize=9,
        color=INK,
    )
