"""What all figures share: fonts, colours, size, and how a figure becomes SVG."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.figure import Figure

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "path.simplify": False,  # what is drawn are the points given
}
# Okabe-Ito: told apart with any colour vision; the dashes tell lines apart without colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
SIZE = (4.6, 3.4)
PIXELS = 110  # per inch, of what is drawn as pixels


def line_look(number: int) -> dict[str, Any]:
    """Colour and dashes of the run, score or term of a number: the same in every figure of a page."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}


def as_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without XML prologue, dates or fixed size."""
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=PIXELS)
    text = buffer.getvalue()
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text[text.index("<svg") :], count=1)
