"""Names that would be read as markup."""

from __future__ import annotations

import pytest

from rtk.report.markup import latex_text, markdown_text


@pytest.mark.parametrize(
    ("text", "markdown", "latex"),
    [
        ("cats+dogs (50%)", "cats+dogs (50%)", r"cats+dogs (50\%)"),
        ("a|b", r"a\|b", r"a\textbar{}b"),
        ("soft_margin", "soft_margin", r"soft\_margin"),
        ("_old_ *new*", r"\_old\_ \*new\*", r"\_old\_ {*}new{*}"),
        ("a\\b{c}$d^2~", r"a\\b{c}$d^2\~", r"a\textbackslash{}b\{c\}\$d\textasciicircum{}2\textasciitilde{}"),
        ("[1](u)", r"[1\](u)", r"{[}1{]}(u)"),
        ("[1] R&D <x>\n#2", r"[1] R\&D \<x\> #2", r"{[}1{]} R\&D \textless{}x\textgreater{} \#2"),
        ("été ± 1 ‰", "été ± 1 ‰", r"été $\pm$ 1 \textperthousand{}"),
    ],
)
def test_text_is_read_as_it_was_meant(text, markdown, latex):
    assert markdown_text(text) == markdown
    assert latex_text(text) == latex
