"""Text that users have chosen, such as the names of sets and runs, as it is written in a marked-up file."""

from __future__ import annotations

import re

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "‰": r"\textperthousand{}",
    "±": r"$\pm$",
    "–": "--",
    **{character: f"\\{character}" for character in "%_&#{}$"},
    **{character: f"{{{character}}}" for character in "[]*"},  # at the start of a row, `\\` would take them
}
# An underline within a word means nothing, and most scores have one; nor do brackets, unless a link follows.
_MARKDOWN = re.compile(r"[\\`*<>|~&]|(?<!\w)_|_(?!\w)|\](?=[(\[])")
_LINE_BREAKS = re.compile(r"[\r\n]+")


def latex_text(text: str) -> str:
    """Text for a cell of a LaTeX table."""
    return "".join(LATEX.get(character, character) for character in _LINE_BREAKS.sub(" ", text))


def markdown_text(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return _MARKDOWN.sub(r"\\\g<0>", _LINE_BREAKS.sub(" ", text))
