"""What an SVG figure shows, in the units of its axes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"


def points(svg: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the points of a line, read off its path by the marks on both axes."""
    root = ElementTree.fromstring(svg)
    line = next(g for g in root.iter(f"{SVG}g") if g.get("id") == f"line-{number}")
    places = re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", line.find(f"{SVG}path").get("d"))
    x, y = np.array(places, float).T
    return np.polyval(scale(root, "x"), x), np.polyval(scale(root, "y"), y)


def marks(svg: str, axis: str) -> dict[str, float]:
    """Place on the drawing of each mark of an axis, by its text."""
    return marks_of(ElementTree.fromstring(svg), axis)


def marks_of(root: ElementTree.Element, axis: str) -> dict[str, float]:
    ticks = [g for g in root.iter(f"{SVG}g") if (g.get("id") or "").startswith(f"{axis}tick_")]
    return {"".join(tick.itertext()).strip(): float(next(tick.iter(f"{SVG}use")).get(axis)) for tick in ticks}


def scale(root: ElementTree.Element, axis: str) -> np.ndarray:
    found = marks_of(root, axis)
    values = [float(text.rstrip("%").replace("−", "-")) / (100 if "%" in text else 1) for text in found]
    return np.polyfit(list(found.values()), values, 1)


def colour(svg: str, number: int) -> str:
    """Colour of a line."""
    root = ElementTree.fromstring(svg)
    line = next(g for g in root.iter(f"{SVG}g") if g.get("id") == f"line-{number}")
    return re.search(r"stroke: (#\w+)", line.find(f"{SVG}path").get("style")).group(1)


def texts(svg: str) -> list[str]:
    """All texts of a figure."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
