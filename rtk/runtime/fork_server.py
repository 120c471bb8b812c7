"""Forks Ray's processes on this machine from one that has imported what they need.

To import torch, timm and DeepSpeed takes a worker some seconds of a core, and every worker of every run and
trial takes them anew. Forked from a process that has them it is there in a third of a second, and shares
their memory. Ray's raylet starts `fork_client` in place of Python; that asks the server.

Ray itself is not imported here: it does not survive a fork. Neither does CUDA, so on machines with a GPU,
which have more cores to import with, processes start as Ray starts them.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rtk.runtime import fork_client
from rtk.runtime.garbage import importing

SHARED = "RTK_FORK_SERVER"  # environment variable: the client of a server that another process has started
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' subsystem for Linux
WORKER_COMMAND = "--python_worker_command="


def is_possible() -> bool:
    """Whether processes can be forked here."""
    return sys.platform == "linux" and not any(map(os.path.exists, GPU_DRIVERS))


_servers: list[tuple[str, subprocess.Popen[bytes]]] = []  # of this process: none or one, and its client


def fork_with(*modules: str) -> None:
    """Have a server import modules, while this process goes on, for those that it will fork.

    The first call starts it, where that is possible; it ends with this process. Without it processes start
    as Ray starts them.
    """
    if SHARED in os.environ or not is_possible():
        return
    with suppress(OSError):
        if not _servers:
            _servers.append(_start_server())
        _servers[0][1].stdin.write("".join(f"{name}\n" for name in modules).encode())  # type: ignore[union-attr]


def _start_server() -> tuple[str, subprocess.Popen[bytes]]:
    folder = Path(tempfile.mkdtemp(prefix="rtk-"))  # others cannot enter it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        server = _popen(listening.fileno())
    atexit.register(server.kill)  # also in the middle of its imports; what it has forked goes on
    return subprocess.list2cmdline([sys.executable, "-IS", fork_client.__file__, address]), server


def _popen(listening: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # nosec B603  # this very module
        [sys.executable, "-P", "-m", __name__, str(listening)],  # -P: not from the folder that it is in
        bufsize=0,
        stdin=subprocess.PIPE,  # modules' names; closed when this process ends, however it does
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[listening],
        start_new_session=True,
        # As Ray has it for its processes, each of which sets its threads itself; read at the first import.
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


def client() -> str | None:
    """The command that Ray's raylet starts in place of Python; None: there is no server."""
    return os.environ.get(SHARED) or next((command for command, _ in _servers), None)


def with_client(program: str, command: Sequence[str]) -> list[str]:
    """The command of a daemon of Ray, where the raylet's starts a client in place of Python."""
    plain = WORKER_COMMAND + subprocess.list2cmdline([sys.executable])
    return [part.replace(plain, WORKER_COMMAND + program) for part in command]


def serve(listening: socket.socket, modules: int = 0) -> list[str] | None:
    """Import and fork until the starter has ended.

    Args:
        listening: where clients connect.
        modules: file descriptor from which the names of modules come.

    Returns:
        in every forked process the command that it has to run; None in this one.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    while True:
        readable, *_ = select.select([modules, listening.fileno()], [], [])
        if modules in readable:
            names = os.read(modules, 2**16).decode().split()
            if not names:
                return None
            _import(names)
            continue
        connection, _ = listening.accept()
        with connection:
            command = _fork_for(connection)
        if command is not None:
            listening.close()
            return command


def _import(names: Sequence[str]) -> None:
    with importing():
        for name in names:
            with suppress(Exception):  # said by whoever needs it
                import_module(name)
    gc.collect()
    gc.freeze()  # what is here by now stays


def _fork_for(connection: socket.socket) -> list[str] | None:
    """Fork a process for a client; its command there, None here."""
    files: list[int] = []
    try:
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        request = json.load(connection.makefile("rb"))
    except (OSError, ValueError):  # it ended while it asked
        request = None
    if request is not None:
        if os.fork() == 0:
            return become(request, files)
        with suppress(OSError):  # it ended before it was told
            connection.send(b"\1")
    for file in files:
        os.close(file)
    return None


def become(request: dict[str, Any], files: Sequence[int]) -> list[str]:
    """Take on the files, environment, folder and niceness of who has asked, and return its command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.nice(max(0, request["niceness"] - os.nice(0)))  # more is a superuser's to take
    if request["leads_group"]:  # all of which Ray ends with a worker
        os.setpgid(0, 0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own does so by itself
    command: list[str] = request["arguments"]
    return command


def main() -> None:
    """Serve, and run what is asked for in the forked processes."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listening.getsockname()).parent
    command = serve(listening)
    if command is None:
        shutil.rmtree(folder, ignore_errors=True)  # its maker may have been killed
        return
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
