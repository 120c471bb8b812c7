"""Ray's job server: where it is, what is sent to it, what a job says until it ends, and how it has ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rtk.config.errors import ConfigError
from rtk.runtime.ray_session import QUIET_AND_QUICK

ADDRESS = "RAY_API_SERVER_ADDRESS"  # Ray lets it win over whatever address a program names
MIB = 2**20
CONNECT_SECONDS = 20.0
GIVE_UP_SECONDS = 120.0  # without an answer while a job is watched
AGAIN_SECONDS = 2.0
STOP_SECONDS = 600  # for a checkpoint, between SIGTERM and SIGKILL; Ray's own default is 3
QUIET_LOGGERS = {
    "ray.dashboard.modules.job.sdk": logging.WARNING,
    "ray.dashboard.modules.dashboard_sdk": logging.WARNING,
    "ray._private.runtime_env.packaging": logging.WARNING,
    "ray._private.runtime_env.working_dir": logging.ERROR,  # tells each time that .git stays here
}
TERMINATED = 143  # exit code of what SIGTERM has ended

# Patterns as in .gitignore; those with a slash are anchored, for rtk's package has `rtk/data` and `rtk/runs`.
NEVER_SENT = (
    *(".git", ".venv", "venv", "__pycache__", "/tests", "/benchmarks"),
    *("/runs", "/data", "mlruns", "mlartifacts", "mlflow.db", "*.parquet"),
    *(".env", ".netrc", ".aws", ".ssh", "*.pem", "*.key"),
)


def runtime_environment(excludes: Sequence[str] = ()) -> dict[str, Any]:
    """What a job gets along: the working folder for its recipes, and settings of Ray.

    Args:
        excludes: patterns of what is left out beside `NEVER_SENT`, as in .gitignore.
    """
    settings = {**QUIET_AND_QUICK, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    return {"working_dir": ".", "excludes": [*NEVER_SENT, *excludes], "env_vars": settings}


def connect(address: str | None) -> Any:
    """Ray's client of a cluster's job server; its token is that of RAY_AUTH_MODE and RAY_AUTH_TOKEN.

    Args:
        address: such as `http://HEAD:8265`; None: that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    Raises:
        ConfigError: there is none, nobody answers there, or not to this token.
    """
    address = address or os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
    if not address:
        raise ConfigError(f"--address: got none, wanted http://HEAD:8265, here or as {ADDRESS}")
    if address.startswith(("http://", "https://")):
        _check_listener(address)
    os.environ[ADDRESS] = address
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name, level in QUIET_LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    try:
        return JobSubmissionClient(address, headers=_headers())
    except AuthenticationError as error:
        raise ConfigError(
            f"--address: {address} refuses this token ({str(error).splitlines()[0]}); wanted "
            "RAY_AUTH_MODE=token with the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--address: no job server at {address} ({error})") from None


def _check_listener(address: str) -> None:
    """Refuse where nobody listens: Ray's client has no time limit."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"--address: nobody listens at {address} ({error})") from None


def _headers() -> dict[str, str] | None:
    """Further headers, from where Ray's own command line takes them."""
    given = os.environ.get("RAY_JOB_HEADERS")
    try:
        return dict(json.loads(given)) if given else None
    except (ValueError, TypeError):  # not repeated: it may hold a token
        raise ConfigError("RAY_JOB_HEADERS: wanted a JSON object of header names and values") from None


def submit(client: Any, name: str, command: str, excludes: Sequence[str] = (), gpus: float = 0) -> None:
    """Send the working folder and start a command in it on the cluster.

    Args:
        client: of `connect`.
        name: of the job.
        command: of the shell.
        excludes: see `runtime_environment`.
        gpus: that the command itself uses: of the node that it is started on then; else it is the head's.

    Raises:
        ConfigError: the cluster has a job of this name, or the folder is too large.
    """
    check_size(Path.cwd(), excludes)
    try:
        client.submit_job(
            entrypoint=command,
            submission_id=name,
            runtime_env=runtime_environment(excludes),
            entrypoint_num_gpus=gpus or None,
        )
    except ValueError as error:
        raise ConfigError(f"submit: {error}") from None
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise
        raise ConfigError(f"--name: the cluster has had a job {name!r} already") from None


def check_size(folder: Path, excludes: Sequence[str] = ()) -> None:
    """Refuse a folder that is too large to be sent, before it is packed; Ray would find that out at the end.

    Raises:
        ConfigError: naming its largest file.
    """
    from ray._private.runtime_env import packaging

    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    is_left_out = packaging._get_excludes(folder, runtime_environment(excludes)["excludes"])
    packaging._dir_travel(
        folder, [is_left_out], note, include_gitignore=True, logger=logging.getLogger("rtk")
    )
    total, most = sum(sizes.values()), packaging.GCS_STORAGE_MAX_SIZE
    if total >= most:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ConfigError(
            f"submit: {folder} holds {total / MIB:,.0f} MiB to be sent ({largest.relative_to(folder)} alone "
            f"{sizes[largest] / MIB:,.0f}), wanted less than {most / MIB:,.0f}; --exclude leaves files out"
        )


def jobs_of(client: Any) -> list[Any]:
    """Ray's `JobDetails` of all that were submitted, the newest last."""
    submitted = [job for job in client.list_jobs() if job.submission_id]
    return sorted(submitted, key=lambda job: job.start_time or 0)


def find_job(client: Any, name: str) -> Any:
    """The details of a job, by name, or of the newest where it is called `last`.

    Raises:
        ConfigError: there is none.
    """
    jobs = jobs_of(client)
    found = [job for job in jobs if name in ("last", job.submission_id)]
    if not found:
        names = ", ".join(job.submission_id for job in jobs) or "none"
        raise ConfigError(f"job: got {name!r}, wanted last or one of the cluster's jobs: {names}")
    return found[-1]


def exit_code(job: Any) -> int:
    """Exit code of a job that has ended, as a shell would give it; 143 where it was stopped."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return TERMINATED
    code: int = job.driver_exit_code or 1
    return 128 - code if code < 0 else code


class JobLog:
    """The log of a job, given out as it grows; it may be left, and gone on with.

    Args:
        client: of `connect`.
        name: of the job.
        write: takes the next piece of text.
    """

    def __init__(self, client: Any, name: str, write: Callable[[str], object]) -> None:
        self.client, self.name, self.write = client, name, write
        self._written = 0  # characters
        self._answered = time.monotonic()

    def follow(self) -> Any:
        """Give out what comes until the job has ended; a lost connection is tried again for two minutes.

        Returns:
            Ray's `JobDetails`.

        Raises:
            RuntimeError: the connection is lost for good; the job goes on.
        """
        from aiohttp import ClientError

        while True:
            try:
                asyncio.run(self._tail())
                job = self.client.get_job_info(self.name)
                self._answered = time.monotonic()
                if job.status.is_terminal():
                    return job
            except (ClientError, RuntimeError, OSError) as error:  # those of requests are OSErrors
                if time.monotonic() - self._answered > GIVE_UP_SECONDS:
                    raise RuntimeError(f"the job server answers no more ({error}); the job goes on") from None
            time.sleep(AGAIN_SECONDS)

    async def _tail(self) -> None:
        """Every connection gets the log from its beginning on."""
        passed = 0
        async for text in self.client.tail_job_logs(self.name):
            self._answered = time.monotonic()
            new = text[max(0, self._written - passed) :]
            passed += len(text)
            if new:
                self.write(new)
                self._written = passed
