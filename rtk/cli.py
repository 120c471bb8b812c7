"""The `rtk` command: its parser, put together from `rtk.commands`, and its exit codes."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from rtk import __version__
from rtk.commands import (
    checkpoints,
    compare,
    completion,
    data,
    demo,
    doctor,
    evaluate,
    export,
    import_,
    init,
    interpolate,
    jobs,
    leaderboard,
    metrics,
    plan,
    predict,
    recipes,
    report,
    runs,
    serve,
    status,
    submit,
    sweep,
    sync,
    train,
)
from rtk.runtime.freed_memory import keep_freed_memory
from rtk.runtime.garbage import search_later

FAILED, BAD_USAGE = 1, 2
COMMANDS = (
    demo,
    train,
    import_,
    interpolate,
    evaluate,
    report,
    sweep,
    submit,
    jobs,
    compare,
    leaderboard,
    runs,
    status,
    checkpoints,
    metrics,
    sync,
    export,
    predict,
    serve,
    init,
    data,
    plan,
    recipes,
    doctor,
    completion,
)
SECTIONS = "data model objective optimizer sharpness schedule averaging train evaluate tracking deepspeed"
# These are config values wherever they stand, also after the first of several words that an option takes.
OVERRIDE = re.compile(rf"^(({SECTIONS.replace(' ', '|')})\.[^=]+|name|seed|output|plugins)=")

DESCRIPTION = """Train image classifiers that know when they are wrong, and prove it.

examples:
  rtk demo                                          the whole story in under 3 minutes, no download
  rtk train digits_demo train.duration=3ep          train a recipe, with overrides
  rtk evaluate RUN --ood near:cats=data/cats        scores and metrics on OOD sets
  rtk report RUN OTHER_RUN                          a page that sets runs side by side
  rtk export RUN && rtk predict RUN photos/         use it: accept, likely-wrong or unfamiliar
  rtk serve RUN                                     the same over HTTP
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="rtk",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rtk {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (failed), 2 (bad usage), 75 (Ray ended), 130 or 143."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _refuse_secrets(words)  # before a parser repeats them
        options = _parse(words)
        keep_freed_memory()
        search_later()
        code: int = options.action(options)
        _send_opened()
        return code
    except KeyboardInterrupt as interrupt:  # carries the signal where it was another than Ctrl-C's
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        return _say("interrupted", 128 + int(number))
    except BrokenPipeError:  # the reader has gone (`rtk recipes cat x | head`)
        sys.stderr.close()
        return FAILED
    except ValueError as error:
        return _fail(error, BAD_USAGE)
    except Exception as error:
        return _fail(error, getattr(error, "exit_code", FAILED))


def _send_opened() -> None:
    """Send what a command has changed in runs that lie on object storage."""
    if "rtk.runs.working_copy" in sys.modules:  # nothing has been opened without it
        from rtk.tracking.uploading import send_opened

        send_opened()


def run() -> None:
    """The installed command: `main`, and out without freeing torch piece by piece, which takes seconds."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a name that the terminal cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    code = main()
    atexit._run_exitfuncs()  # Ray's shutdown, MLflow's last rows
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader has gone
            stream.flush()
    os._exit(code)


def _refuse_secrets(words: Sequence[str]) -> None:
    """Refuse URIs that hold a password, whatever option they are for."""
    if any("://" in word for word in words):
        from rtk.config.secrets import refuse_secrets

        for word in words:
            name, equals, _ = word.partition("=")
            refuse_secrets(name if equals and "://" not in name else "arguments", word)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse; `key=value` and a recipe may stand anywhere, which argparse refuses after an option."""
    parser = build_parser()
    command = _command_parser(parser, words)
    given = list(words)
    words, overrides = _split_overrides(command, words)
    options, rest = parser.parse_known_args(words)
    if rest and getattr(options, "recipe", "") is None and not rest[0].startswith("-"):
        options.recipe = rest.pop(0)
    if hasattr(options, "overrides"):
        # The rest are keys that are misspelt; what they are near to is said later.
        overrides += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in overrides]
        options.overrides = [*options.overrides, *overrides]
    if rest:
        parser.error(_unrecognized(command, rest))
    options.parser, options.words = parser, given  # for `rtk completion` and `rtk submit`
    return options


def _unrecognized(command: argparse.ArgumentParser, rest: Sequence[str]) -> str:
    """What is said of words that the command does not take; of a misspelt option, the nearest one."""
    option = rest[0].partition("=")[0]
    if not option.startswith("--"):
        return f"unrecognized arguments: {' '.join(rest)}"
    from rtk.config.errors import unknown

    return unknown("option", option, command._option_string_actions)


def _command_parser(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that the first words name; a misspelt one is answered with the nearest."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and words and not words[0].startswith("-"):
            if words[0] in action.choices:
                return _command_parser(action.choices[words[0]], words[1:])
            from rtk.config.errors import unknown

            parser.error(unknown("command", words[0], action.choices))
    return parser


def _split_overrides(command: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without config values, and those; a word that an option must have stays the option's own."""
    if not any(action.dest == "overrides" for action in command._actions):
        return list(words), []
    own: list[str] = []
    overrides: list[str] = []
    claimed = 0  # words to come that belong to an option whatever they look like
    pairs = False  # whether the last option takes words such as NAME=PATH, as many as there are
    for word in words:
        is_override = claimed == 0 and OVERRIDE.match(word) and not (pairs and not _is_key(word))
        (overrides if is_override else own).append(word)
        if claimed == 0 and word.startswith("-"):
            pairs = _takes_pairs(command, word)
        claimed = claimed - 1 if claimed else _words_of_option(command, word)
    return own, overrides


def _is_key(word: str) -> bool:
    """Whether `key=value` sets a key that a run can be evaluated with; `name=x` is a set called `name`."""
    from rtk.config.load import FREE_KEYS, valid_keys

    key = word.partition("=")[0]
    return "." in key and (key in valid_keys() or key.startswith(FREE_KEYS))


def _words_of_option(command: argparse.ArgumentParser, word: str) -> int:
    """How many words an option must be followed by; 0 for any other word."""
    option = command._option_string_actions.get(word)
    if option is None:
        return 0
    return option.nargs if isinstance(option.nargs, int) else int(option.nargs in (None, "+"))


def _takes_pairs(command: argparse.ArgumentParser, word: str) -> bool:
    option = command._option_string_actions.get(word.partition("=")[0])
    return option is not None and option.nargs == "+" and "=" in str(option.metavar)


def _fail(error: Exception, code: int) -> int:
    if os.environ.get("RTK_DEBUG"):
        raise error
    named = f"{error}" if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.filename:
        named = f"{error.filename}: {error.strerror}"
    return _say(f"error: {named}" + ("" if code == BAD_USAGE else " (RTK_DEBUG=1 shows the traceback)"), code)


def _say(text: str, code: int) -> int:
    from rtk.runtime.console import printable

    print(f"rtk: {printable(text)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
