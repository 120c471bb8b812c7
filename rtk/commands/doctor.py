"""`rtk doctor`: what this machine can do."""

from __future__ import annotations

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk doctor`."""
    add_json(
        add_command(commands, "doctor", run, "check versions, accelerators and collectives", "rtk doctor")
    )


def run(options: Options) -> int:
    """`rtk doctor`."""
    from rtk.doctor import examine

    checks = examine()
    if options.json:
        print_json({check.name: {"ok": check.ok, "found": check.found} for check in checks})
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
    return 0 if all(check.ok for check in checks) else 1
