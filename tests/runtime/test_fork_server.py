"""Processes of Ray forked from one that has imported what they need."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rtk.runtime import fork_client, fork_server
from rtk.runtime.fork_client import CONTEXT, LANGUAGE, without_setup
from rtk.runtime.fork_server import SHARED, client, fork_with, with_client

PROGRAM = """
import json, os, sys, random
print(json.dumps({
    "has_colorsys": "colorsys" in sys.modules, "arguments": sys.argv[1:], "name": __name__,
    "environment": os.environ.get("MARK"), "lost": os.environ.get("LOST"), "folder": os.getcwd(),
    "niceness": os.nice(0), "leads": os.getpgrp() == os.getpid(), "path": sys.path[0],
    "random": random.random(), "parent": os.getppid(),
}))
"""


@pytest.fixture
def own_server(monkeypatch):
    """Client of a server that has one small module, and its process."""
    monkeypatch.delenv(SHARED, raising=False)
    monkeypatch.setenv("LOST", "what the client does not have")
    monkeypatch.setattr(fork_server, "_servers", [])
    fork_with("colorsys")
    ((program, server),) = fork_server._servers
    monkeypatch.delenv("LOST")
    yield program, server
    server.kill()
    server.wait()
    server.stdin.close()


def output_of(client: str, script: Path, *arguments: str, **options) -> dict:
    command = [*shlex.split(client), str(script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60, **options)
    return json.loads(done.stdout)


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_forked_process_is_as_its_client_would_be(own_server, script, tmp_path):
    program, server = own_server
    folder = tmp_path / "a folder"
    folder.mkdir()
    options = {"cwd": folder, "env": {"MARK": "é"}, "preexec_fn": lambda: os.nice(3)}
    mine = os.nice(0)
    first = output_of(program, script, "a b", "'c'", start_new_session=True, **options)
    assert first.pop("random") != output_of(program, script)["random"]
    assert first == {
        "has_colorsys": True,
        "arguments": ["a b", "'c'"],
        "environment": "é",
        "lost": None,
        "folder": str(folder),
        "niceness": mine + 3,
        "name": "__main__",
        "leads": True,
        "path": str(tmp_path),
        "parent": server.pid,
    }
    assert not output_of(program, script)["leads"]


def test_modules_may_be_named_later(own_server, tmp_path):
    program, _ = own_server
    fork_with("this_module_is_not_there", "sndhdr_is_not_either")
    script = tmp_path / "program.py"
    script.write_text("import sys; print(int('wave' in sys.modules))")
    fork_with("wave")
    assert output_of(program, script) == 1


def test_a_process_starts_alone_where_the_server_has_ended(own_server, script):
    program, server = own_server
    server.kill()
    server.wait()
    assert output_of(program, script, "x") | {"random": 0, "parent": 0} == {
        "has_colorsys": False,
        "arguments": ["x"],
        "environment": None,
        "lost": None,
        "folder": os.getcwd(),
        "niceness": os.nice(0),
        "name": "__main__",
        "leads": False,
        "path": str(script.parent),
        "random": 0,
        "parent": 0,
    }
    fork_with("wave")  # nobody reads that, and nothing fails


def test_a_client_that_ends_while_it_asks_costs_nothing(own_server, script):
    program, _ = own_server
    address = shlex.split(program)[-1]
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(address)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(address)
        socket.send_fds(asking, [b"\0"], [1])
        asking.sendall(b'{"arguments": ')
    with socket.socket(socket.AF_UNIX) as asking:  # all is said, and nobody waits for the answer
        asking.connect(address)
        socket.send_fds(asking, [b"\0"], [1, 1, 1])
        mine = {"environment": dict(os.environ), "folder": os.getcwd(), "niceness": 0, "leads_group": False}
        asking.sendall(json.dumps({"arguments": [os.devnull], **mine}).encode())
    assert output_of(program, script)["has_colorsys"]


def setup_of(script: Path, **context) -> list[str]:
    """Ray's command for a process with an environment of its own."""
    empty = {"command_prefix": [], "py_executable": sys.executable, "override_worker_entrypoint": None}
    given = {**empty, "java_jars": [], **context}
    return ["/ray/setup_worker.py", str(script), "x", CONTEXT + json.dumps(given), f"{LANGUAGE}PYTHON"]


def test_variables_that_are_read_late_are_set_without_ray(monkeypatch, script):
    monkeypatch.setenv("RAY_MARK", "0")
    command = setup_of(script, env_vars={"RAY_MARK": "1", "PL_MARK": "2"})
    assert without_setup(command) == [str(script), "x"]
    assert (os.environ["RAY_MARK"], os.environ.pop("PL_MARK")) == ("1", "2")


def test_where_ray_prepares_nothing_its_program_is_left_out(script):
    command = ["/ray/setup_worker.py", str(script), "x", f"{LANGUAGE}PYTHON"]
    assert without_setup(command) == [str(script), "x"]
    assert without_setup([str(script), "x"]) == [str(script), "x"]


@pytest.mark.parametrize(
    "context",
    [
        {"env_vars": {"OMP_NUM_THREADS": "2"}},  # read when a library is loaded
        {"env_vars": {"RAY_MARK": "${HOME}/x"}},
        {"env_vars": {}, "command_prefix": ["cd", "/x"]},
        {"env_vars": {}, "py_executable": "/another/python"},
        {"env_vars": {}, "override_worker_entrypoint": "/x"},
    ],
)
def test_what_needs_more_than_that_starts_as_ray_starts_it(script, context):
    assert without_setup(setup_of(script, **context)) is None


def test_the_server_ends_with_its_starter(tmp_path):
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from rtk.runtime import fork_server as f; f.fork_with('colorsys')\n"
            "print(f._servers[0][1].pid, f.client(), flush=True, sep='|'); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != SHARED},
    )
    with starter:
        pid, program = starter.stdout.readline().rstrip().split("|")
        script = tmp_path / "program.py"
        script.write_text("print(1)")
        assert output_of(program, script) == 1  # it is up
        starter.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while psutil.pid_exists(int(pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(pid))
    assert not Path(shlex.split(program)[-1]).parent.exists()


def test_there_is_none_beside_a_gpu(monkeypatch):
    monkeypatch.delenv(SHARED, raising=False)
    monkeypatch.setattr(fork_server, "_servers", [])
    monkeypatch.setattr(fork_server, "GPU_DRIVERS", (os.devnull,))
    fork_with("colorsys")
    assert client() is None


def test_where_no_server_can_start_nothing_fails(monkeypatch, tmp_path):
    monkeypatch.delenv(SHARED, raising=False)
    monkeypatch.setattr(fork_server, "_servers", [])
    deep = tmp_path / ("x" * 120)  # longer than the address of a socket may be
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    fork_with("colorsys")
    assert client() is None


def test_files_of_the_folder_shadow_no_module(monkeypatch, tmp_path, script):
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SHARED, raising=False)
    monkeypatch.setattr(fork_server, "_servers", [])
    fork_with("colorsys")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = script.rename(elsewhere / "program.py")
    assert output_of(client(), script)["has_colorsys"]


def test_only_the_raylet_is_told(monkeypatch):
    raylet = ["raylet", f"--python_worker_command={sys.executable} /ray/setup_worker.py --x", "--y"]
    assert with_client("/c", raylet) == [
        "raylet",
        "--python_worker_command=/c /ray/setup_worker.py --x",
        "--y",
    ]
    agent = [sys.executable, "-u", "agent.py"]
    assert with_client("/c", agent) == agent


def test_processes_of_ray_are_forked(ray_session):
    def modules_at_first() -> set[str]:
        return {"torch", "timm", "deepspeed", "rtk.train.worker"} & set(sys.modules)

    found = ray_session.get(ray_session.remote(num_cpus=0)(modules_at_first).remote())
    assert found == {"torch", "timm", "deepspeed", "rtk.train.worker"}


def test_the_client_imports_next_to_nothing():
    imported = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", fork_client.__file__, "/nowhere", os.devnull],
        capture_output=True,
        text=True,
        check=True,
    )
    assert imported.stderr.count("\n") < 120
