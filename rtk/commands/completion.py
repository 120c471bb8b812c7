"""`rtk completion`: completion for a shell."""

from __future__ import annotations

from rtk.commands.parsers import Options, Parsers, add_command


def add(commands: Parsers) -> None:
    """The parser of `rtk completion`."""
    parser = add_command(
        commands,
        "completion",
        run,
        "print a shell completion script",
        """rtk completion bash > ~/.local/share/bash-completion/completions/rtk
        rtk completion zsh > ~/.zfunc/_rtk""",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def run(options: Options) -> int:
    """`rtk completion`."""
    import shtab

    print(shtab.complete(options.parser, options.shell))
    return 0
