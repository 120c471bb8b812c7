"""`rtk jobs`: list, read and stop the jobs of a Ray cluster."""

from __future__ import annotations

import sys
import time
from typing import Any

from rtk.commands.output import duration, print_aligned, print_json
from rtk.commands.parsers import Options, Parsers, add_address, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk jobs`."""
    jobs = commands.add_parser("jobs", help="list, read and stop the jobs of a Ray cluster")
    actions = jobs.add_subparsers(dest="jobs_command", metavar="ACTION", required=True)
    listing = add_command(
        actions,
        "ls",
        ls,
        "list jobs, the newest last: name, status, duration, command",
        "rtk jobs ls --address http://HEAD:8265\nrtk jobs ls --json",
    )
    read = add_command(
        actions,
        "logs",
        logs,
        "print what a job has said",
        "rtk jobs logs last\nrtk jobs logs NAME --follow --address http://HEAD:8265",
    )
    read.add_argument(
        "--follow", action="store_true", help="until it ends; with its exit code, as rtk submit"
    )
    stopped = add_command(
        actions,
        "stop",
        stop,
        "stop a job: a training writes a checkpoint first",
        "rtk jobs stop last\nrtk jobs stop NAME --no-wait",
    )
    stopped.add_argument("--no-wait", action="store_true", help="ask only, do not wait until it has ended")
    for parser in (read, stopped):
        parser.add_argument("job", help="job: its name, or last")
    for parser in (listing, read, stopped):
        add_address(parser)
    for parser in (listing, stopped):
        add_json(parser)


def ls(options: Options) -> int:
    """`rtk jobs ls`."""
    from rtk.runtime.jobs import connect, jobs_of

    found = [_record(job) for job in jobs_of(connect(options.address))]
    if options.json:
        print_json(found)
    else:
        rows = [[one["job"], one["status"], _shown(one["seconds"]), one["command"]] for one in found]
        print_aligned([["job", "status", "time", "command"], *rows], is_text=(0, 1, 3))
    return 0


def logs(options: Options) -> int:
    """`rtk jobs logs`."""
    from rtk.commands.submit import follow
    from rtk.runtime.jobs import connect, find_job

    client = connect(options.address)
    name = find_job(client, options.job).submission_id
    if options.follow:
        return follow(client, name)
    print(client.get_job_logs(name), end="")
    return 0


def stop(options: Options) -> int:
    """`rtk jobs stop`."""
    from rtk.runtime.jobs import JobLog, connect, find_job

    client = connect(options.address)
    job = find_job(client, options.job)
    was_running = client.stop_job(job.submission_id)
    if was_running and not options.no_wait:
        JobLog(client, job.submission_id, sys.stderr.write).follow()
    job = client.get_job_info(job.submission_id)
    if options.json:
        print_json(_record(job))
    else:
        print(f"{job.submission_id}: {job.status.value.lower()}")
    return 0


def _record(job: Any) -> dict[str, Any]:
    start, end = job.start_time, job.end_time or time.time() * 1000
    return {
        "job": job.submission_id,
        "status": job.status.value.lower(),
        "seconds": None if start is None else (end - start) / 1000,
        "command": job.entrypoint,
    }


def _shown(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)
