from __future__ import annotations

import re

from rtk.report import search_plots
from tests.report import drawn

COLUMNS = {"lr": [0.01, 0.03, 0.1], "width": [8, 16, 8], "head": ["linear", "cosine", None]}


def coordinates(**logarithmic: bool) -> str:
    return search_plots.parallel_coordinates(COLUMNS, "accuracy %", [90.0, 95.0, 80.0], True, logarithmic)


def test_axes_of_log_ranges_are_logarithmic_however_narrow_the_values():
    assert {"lr (log)", "0.0316"} <= set(drawn.texts(coordinates(lr=True)))
    assert {"lr", "0.055"} <= set(drawn.texts(coordinates(lr=False)))
    assert "lr" in drawn.texts(coordinates())  # 1 : 10 alone is too narrow


def test_lines_stand_out_from_white():
    colours = re.findall(r"stroke: #(\w{6})", coordinates())
    lines = [colour for colour in colours if colour != "9aa5b1"]
    assert len(lines) >= 3
    for colour in lines:
        red, green, blue = (int(colour[n : n + 2], 16) / 255 for n in (0, 2, 4))
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.8


def test_equally_good_runs_look_alike():
    svg = search_plots.parallel_coordinates(COLUMNS, "AURC", [20.0, 10.0, 10.0], False)
    colours = [c for c in re.findall(r"stroke: #(\w{6})", svg) if c != "9aa5b1"]
    assert sorted(colours.count(colour) for colour in set(colours)) == [1, 2]
