"""`rtk submit`: run a command on a Ray cluster, follow what it says and return its exit code."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands import evaluate, export, serve, sweep, train
from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_address, add_json
from rtk.runtime.interrupts import heed_interrupt

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.runtime.jobs import JobLog

SUBMITTED = {"train": train, "sweep": sweep, "evaluate": evaluate, "export": export, "serve": serve}
NEW = ("train", "sweep")  # what makes a folder of its own
INTERRUPTED = 130


def add(commands: Parsers) -> None:
    """The parser of `rtk submit`: those of the commands, with the options of the submission."""
    parser = commands.add_parser("submit", help="run a command on a Ray cluster and follow it")
    actions = parser.add_subparsers(dest="submit_command", metavar="COMMAND", required=True)
    for name, command in SUBMITTED.items():
        command.add(actions)
        chosen = actions.choices[name]
        chosen.description = (
            f"rtk {name}, on a Ray cluster: this folder is sent along for its recipes, but for runs, data, "
            ".venv, .git, .env and what .gitignore names. Ctrl-C asks whether to leave the job or to stop it."
        )
        chosen.epilog = _examples(name)
        submission = chosen.add_argument_group("submission")
        _add_options(submission)
        if name == "serve":
            _add_gpus(submission)
        chosen.set_defaults(action=run)


def _examples(name: str) -> str:
    arguments = {
        "train": "resnet18_cifar100_sure_plus train.workers=8 --output /shared/runs",
        "sweep": "search_spaces/sure_plus.yaml digits_demo --output s3://BUCKET/runs",
        "evaluate": "/shared/runs/NAME evaluate.actors=8",
        "export": "s3://BUCKET/runs/NAME --no-mlflow",
        "serve": "s3://BUCKET/runs/NAME --gpus 1",
    }
    line = f"rtk submit {name} {arguments[name]}"
    return f"examples:\n  {line} --address http://HEAD:8265\n  {line} --no-wait"


def _add_options(parser: Any) -> None:
    add_address(parser)
    parser.add_argument("--no-wait", action="store_true", help="return once the job is submitted")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="what else is not sent along, as in .gitignore",
    )


def _add_gpus(parser: Any) -> None:
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="that the job itself needs")


def run(options: Options) -> int:
    """`rtk submit`."""
    from rtk.runtime.jobs import connect, submit

    name, arguments = _job(options)
    client = connect(options.address)
    submit(client, name, shlex.join(["rtk", *arguments]), options.exclude, getattr(options, "gpus", 0))
    print(f"rtk: submitted {name} to {client.get_address()}", file=sys.stderr, flush=True)
    if not options.no_wait:
        return follow(client, name, options.json)
    if options.json:
        print_json({"job": name, "address": client.get_address()})
    else:
        print(f"{name}\nnext: rtk jobs logs {name} --follow")
    return 0


def _job(options: Options) -> tuple[str, list[str]]:
    """Name of the job and the words of its command; a new run or sweep is called as its job.

    Raises:
        ConfigError: what it needs would not be there, or what it writes would not outlast it.
    """
    from rtk.runs.names import check_name, unique_name

    what, words = options.submit_command, _own_words(options.words[1:])
    if what in NEW and not options.resume:
        config = _config(options)
        _check_sent([options.recipe, getattr(options, "space", None), *config.plugins])
        _check_lasting("output", options.output or config.output)
        if not getattr(options, "seeds", None):  # whose command is the same when it goes on
            name = options.name or unique_name(config.name if what == "train" else f"sweep-{config.name}")
            check_name(name)
            return name, [*words, *([] if options.name else ["--name", name])]
    elif what == "serve":
        words += _to_be_reached(options)
        if options.keep:
            _check_lasting("--keep", options.keep)
        if not (_is_lasting(options.output) or ":/" in options.model):  # models:/NAME/VERSION
            _check_lasting("model", options.model)
    elif not _is_lasting(options.output or ""):
        _check_lasting("run", options.resume if what in NEW else options.run)
    return unique_name(what), words


def _to_be_reached(options: Options) -> list[str]:
    """Words by which a server on a cluster can be asked; its token stays here, but for the hash.

    Raises:
        ConfigError: there is no token.
    """
    from rtk.deploy.serving.access import check_exposure, is_loopback, token_hash

    sha256 = token_hash(options.token_sha256)
    host = "0.0.0.0" if is_loopback(options.host) else options.host  # nosec B104  # with a token
    check_exposure(host, sha256)
    given = [] if options.token_sha256 else ["--token-sha256", str(sha256)]
    return ["--host", host, *given]


def _own_words(words: Sequence[str]) -> list[str]:
    """The words of a command without those of the submission."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_options(parser)
    _add_gpus(parser)
    add_json(parser)  # a job's log holds both of its streams
    return parser.parse_known_args(words)[1]


def _config(options: Options) -> RunConfig:
    """Config of what is submitted: wrong keys are said here and now, and variables are the cluster's."""
    from rtk.config.errors import ConfigError
    from rtk.config.load import load_with_origins

    if not options.recipe:
        raise ConfigError(f"recipe: got none, wanted what rtk {options.submit_command} wants, or --resume")
    return load_with_origins(options.recipe, options.overrides, keep_unset=True).config


def _check_sent(files: Iterable[str | None]) -> None:
    """Refuse files of this machine that are not in the folder which is sent."""
    from rtk.config.errors import ConfigError

    for name in files:
        if name and Path(name).is_file() and not Path(name).resolve().is_relative_to(Path.cwd()):
            raise ConfigError(
                f"submit: {name} is not in {Path.cwd()}, the folder that is sent to the cluster"
            )


def _check_lasting(key: str, place: str) -> None:
    """Refuse places in the copy of the folder that is sent, which is deleted after the job."""
    from rtk.config.errors import ConfigError

    if not _is_lasting(place):
        raise ConfigError(
            f"{key}: got {place!r}, wanted a place that outlasts the job: a URI, or an absolute path that "
            "all nodes see (--output)"
        )


def _is_lasting(place: str) -> bool:
    from rtk.runs.object_store import is_uri

    return is_uri(place) or place.startswith(("/", "${"))


def follow(client: Any, name: str, as_json: bool = False) -> int:
    """Write out the log of a job until it ends, say how it has ended, and return its exit code.

    Ctrl-C asks what to do with it.
    """
    from rtk.runtime.jobs import JobLog, exit_code

    stream = sys.stderr if as_json else sys.stdout
    log = JobLog(client, name, lambda text: print(text, end="", file=stream, flush=True))
    job = _watch(log)
    if job is None:
        return INTERRUPTED
    code = exit_code(job)
    if as_json:
        print_json({"job": name, "status": job.status.value.lower(), "exit_code": code})
    reason = f" ({job.message})" if code and job.driver_exit_code is None and job.message else ""
    print(f"rtk: job {name} {job.status.value.lower()}{reason}", file=sys.stderr)
    return code


def _watch(log: JobLog) -> Any:
    """Details of a job once it has ended; None where it was left."""
    heed_interrupt()
    while True:
        try:
            return log.follow()
        except KeyboardInterrupt:
            answer = _ask()
            if answer == "s":
                print("rtk: stopping: the job writes a checkpoint", file=sys.stderr)
                log.client.stop_job(log.name)
            elif answer != "w":
                print(
                    f"rtk: the job goes on: rtk jobs logs {log.name} --follow, rtk jobs stop {log.name}",
                    file=sys.stderr,
                )
                return None


def _ask() -> str:
    """What to do with the job: `s` stop, `w` go on watching; anything else: leave it."""
    if not sys.stdin.isatty():
        return ""
    print("\nleave the job (l), stop it with a checkpoint (s), or go on watching (w)? ", end="", flush=True)
    try:
        return sys.stdin.readline().strip().lower()[:1]
    except KeyboardInterrupt:
        return ""
