"""Nodes for `cluster.py`: each a process tree with a network, mounts, processes and a host name of its own.

A node sees the disk of this machine, but cannot write to it: the temporary folders, the home folder and
shared memory are file systems of its own, in memory. So no two nodes have a folder in common through which
one could tell the other something. An Ethernet pair leads from each to a bridge, on which the object storage
listens too. When a node is killed, its processes and its network are gone in the same moment, as when a
machine loses power: nobody is told. It takes root and Linux.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[1]
NETWORK = "10.213.77"
SERVER = f"{NETWORK}.1"
PORT = 6379
BRIDGE = "rtk-bridge"
CACHE = "/tmp/rtk"  # of each node
OWN = ("/tmp", "/var/tmp", "/dev/shm", "/run", str(Path.home()))  # folders that each node has for itself
HIDDEN = tuple(filter(None, (os.environ.get("RTK_DATA"),)))  # what a node has to get from object storage
SECONDS_TO_START = 180.0
# The name of the machine is a loopback address, as Debian and Ubuntu write it.
SETUP = """
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
number=0
for program in {programs}; do
  mkdir -p /mnt/$number && mount --bind $program /mnt/$number && mount -o remount,bind,ro /mnt/$number
  number=$((number + 1))
done
mount -o remount,bind,ro /
for folder in {own}; do mount -t tmpfs tmpfs $folder; done
number=0
for program in {programs}; do
  mkdir -p $program && mount --move /mnt/$number $program
  number=$((number + 1))
done
hostname {name}
printf '127.0.0.1 localhost\\n127.0.1.1 {name}\\n' > /run/hosts
mount --bind /run/hosts /etc/hosts
echo ready
while :; do sleep 1000 & wait; done
"""


def run(*command: str) -> str:
    """Run a program and return what it says.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=SECONDS_TO_START)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Node:
    """A machine in the small.

    Args:
        number: of the node; 0 is the cluster's head.
        environment: of the programs that it runs.
    """

    def __init__(self, number: int, environment: dict[str, str]) -> None:
        self.name, self.address = f"node{number}", f"{NETWORK}.{10 + number}"
        self.link, self.is_head = f"rtk-node{number}", number == 0
        self.environment = environment | {"HOME": str(Path.home())}
        self.shell: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Make the machine and plug it in."""
        holders = ("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--fork", "--mount-proc")
        kinds = ("--net", "--mount", "--uts", "--ipc", "--pid")
        script = SETUP.format(
            programs=shlex.join(programs()), own=shlex.join([*OWN, *HIDDEN]), name=self.name
        )
        self.shell = subprocess.Popen(
            [*holders, *kinds, "bash", "-euc", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert self.shell.stdout is not None
        if (said := self.shell.stdout.readline()) != "ready\n":
            raise RuntimeError(f"{self.name}: {said}")
        self._plug_in()

    def _plug_in(self) -> None:
        with suppress(RuntimeError):  # of a node before, which the kernel may not have cleared away yet
            run("ip", "link", "delete", self.link)
        there = ("type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        run("ip", "link", "add", self.link, *there)
        run("ip", "link", "set", self.link, "master", BRIDGE, "up")
        inside = ("nsenter", "--target", str(self.pid), "--net", "ip")
        run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run(*inside, "link", "set", device, "up")
        run(*inside, "route", "add", "default", "via", SERVER)

    @property
    def pid(self) -> int:
        """Id of its first process, with which all others end."""
        assert self.shell is not None
        return psutil.Process(self.shell.pid).children()[0].pid

    def folder(self, path: str) -> Path:
        """A folder of this node, as this process sees it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def popen(self, command: Sequence[str], output: IO[str] | int) -> subprocess.Popen[str]:
        """Start a program on the node, in its temporary folder."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--ipc", "--pid"]
        return subprocess.Popen(
            [*enter, "env", "--chdir=/tmp", *command],
            env=self.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def run(self, *command: str, seconds: float = SECONDS_TO_START) -> str:
        """Run a program on the node, and return what it says.

        Raises:
            RuntimeError: it failed.
        """
        program = self.popen(command, subprocess.PIPE)
        said, _ = program.communicate(timeout=seconds)
        if program.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(command)}: {said[-2000:]}")
        return said

    def join(self, cpus: int) -> None:
        """Start Ray's daemon, of a new cluster on the head."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={self.address}"]
        ray += [f"--num-cpus={cpus}", "--object-store-memory=150000000", "--disable-usage-stats"]
        if self.is_head:
            self.run(*ray, "--head", f"--port={PORT}", "--include-dashboard=false")
        else:
            self.run(*ray, f"--address={NETWORK}.10:{PORT}")

    def kill(self) -> None:
        """Take its power away."""
        if self.shell is not None and self.shell.poll() is None:
            psutil.Process(self.pid).kill()
            self.shell.wait()


def programs() -> list[str]:
    """Folders of rtk and Python that lie where a node has a folder of its own."""
    folders = {str(ROOT), sys.prefix, sys.base_prefix}
    return sorted(folder for folder in folders if any(Path(folder).is_relative_to(own) for own in OWN))


@contextmanager
def bridge() -> Iterator[None]:
    """The switch that all nodes are plugged into."""
    with suppress(RuntimeError):  # of a process that was killed
        run("ip", "link", "delete", BRIDGE)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "address", "add", f"{SERVER}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        run("ip", "link", "delete", BRIDGE)


@contextmanager
def nodes(count: int, environment: dict[str, str]) -> Iterator[list[Node]]:
    """Machines that are on, without Ray."""
    made = [Node(number, environment) for number in range(count)]
    try:
        for node in made:
            node.start()
        yield made
    finally:
        for node in made:
            node.kill()


def environment(keys: dict[str, str]) -> dict[str, str]:
    """Of every program of a node.

    Args:
        keys: of the object storage (`cluster_storage.keys`).
    """
    return {
        **keys,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": f"{Node(0, {}).address}:{PORT}",
        "RAY_worker_niceness": "0",  # else other processes starve Ray's workers
        "RTK_CACHE": CACHE,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def shares_a_folder(made: Sequence[Node]) -> list[str]:
    """Folders that one node writes to and another one sees, of those that can be written to."""
    found = []
    for folder in [*OWN, str(ROOT), "/work", "/etc", "/"]:
        probe = f"{folder.rstrip('/')}/seen-by-others-{time.time_ns()}"
        with suppress(RuntimeError):  # it cannot be written to
            made[0].run("touch", probe)
            if any(node.folder(probe).exists() for node in made[1:]) or Path(probe).exists():
                found.append(folder)
    return found
