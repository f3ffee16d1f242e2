"""What all figures share: colours, marks, and axes without clutter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design (2008): colour-blind readers can tell them apart.
BAR, CEILING = "#a6cee3", "#d55e00"
BAR_HEIGHT = 0.6
OUTLINE: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4, "zorder": 4}
ROUND: dict[str, Any] = {"s": 20, "color": "#0072b2", **OUTLINE}
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False}


def literal(text: str) -> str:
    """Return a name whose dollar signs matplotlib does not take for the ends of a formula."""
    return text.replace("$", r"\$")


def tidy(figure: Figure, sides: Mapping[str, Axes], columns: int = 4) -> None:
    """Draw grids instead of frames, and put legends below the axes, where they cover no sample.

    ``sides`` says which axes are "left" and which "right" in the figure, ``columns`` how many
    entries of a legend stand beside each other.
    """
    for side, axes in sides.items():
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        place: Any = f"outside lower {side}"
        figure.legend(list(once.values()), list(once), loc=place, ncols=columns, **LEGEND)
