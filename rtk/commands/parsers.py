"""What the parsers of all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Options = argparse.Namespace
MOST_SEEDS = 1000
Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Parsers, name: str, action: Callable[[Options], int], summary: str, examples: str
) -> argparse.ArgumentParser:
    """A command with its help.

    Args:
        commands: of the command it belongs to.
        name: what is typed.
        action: what it does; its return value is the exit code.
        summary: one line, beginning in lower case, without a full stop.
        examples: one on each line.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="examples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `export --out` would mean `--output`, which is something else
    )
    parser.set_defaults(action=action)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_address(parser: argparse.ArgumentParser) -> None:
    """The option `--address`."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's job server, http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS); "
        "its token is that of RAY_AUTH_MODE and RAY_AUTH_TOKEN",
    )


def add_labels_by(parser: argparse.ArgumentParser) -> None:
    """The option `--labels-by`, the key `data.labels_by`."""
    parser.add_argument(
        "--labels-by",
        choices=["name", "number"],
        help="join sets by their class names, refusing unlike ones, or insist on numbers (default: name)",
    )


def add_plugin(parser: argparse.ArgumentParser, what: str) -> None:
    """The option `--plugin`."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help=f"your Python file that registers {what}",
    )


def positive(text: str) -> int:
    """An option's whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """An option's whole number from 0 on, that fits 63 bits."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number from 0 on")
    return int(text)


def seeds(text: str) -> list[int]:
    """An option's seeds: `0,3,7`, or ranges with both ends, `0..4`, or both."""
    wanted = "wanted seeds such as 0,3,7 or 0..4 (five seeds, both ends included), each once"
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ends = (first, last) if dots else (first, first)
        if not all(end.isdecimal() and int(end) < 2**63 for end in ends):
            raise argparse.ArgumentTypeError(f"got {text!r}, {wanted}")
        low, high = map(int, ends)
        if not 0 <= high - low < MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"got {text!r}, {wanted}, at most {MOST_SEEDS:,}")
        found += range(low, high + 1)
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"got {text!r}, {wanted}")
    return found
