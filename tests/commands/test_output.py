"""Names that come from anybody are printed as they are, but for what a terminal or a table would obey."""

from rtk.cli import main
from rtk.commands.output import print_aligned, print_some, print_table

NAMES = ["[/red] and [b]", "\x1b[2J\x1b]0;title\x07"]


def test_tables_hold_no_markup_and_no_escapes(capsys):
    rows = [["name", "n"], *([name, "1"] for name in NAMES)]
    print_table(NAMES[1], rows)
    print_aligned(rows)
    print_some(NAMES[1], NAMES)
    said = capsys.readouterr().out
    assert said.count("[/red] and [b]") == 3
    assert "\x1b" not in said
    assert said.count("\\x1b[2J") == 5


def test_errors_hold_no_escapes(capsys):
    assert main(["status", NAMES[1], "--output", "nowhere"]) == 2
    assert "\x1b" not in capsys.readouterr().err
