"""Progress without a terminal."""

from __future__ import annotations

from rtk.runtime.console import complain, printable, progress_bar, progress_lines


def test_lines_come_at_intervals(capsys):
    show = progress_lines("predicting", every=0)
    show(1, 2000)
    show(1500, 2000)
    assert capsys.readouterr().err == "predicting: 1 of 2,000\npredicting: 1,500 of 2,000\n"


def test_short_work_says_nothing(capsys):
    with progress_bar("predicting") as show:
        for done in range(100):
            show(done, 100)
    assert capsys.readouterr().err == ""


def test_what_a_terminal_would_obey_is_shown():
    assert printable("a\tb\nc é \x1b[2J\x9b\u202e\r") == "a\tb\nc é \\x1b[2J\\x9b\\u202e\\r"


def test_complaints_are_printable(capsys):
    complain("bad\x1b[31m.png: empty")
    assert capsys.readouterr().err == "bad\\x1b[31m.png: empty\n"
