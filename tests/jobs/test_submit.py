"""The demo-sized job through the `ray job submit` command line, on a local head with token authentication."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = ["digits_demo", "model.width=4", "data.train_rows=256", "train.duration=1ep"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment of a user whose RAY_ADDRESS is a fresh head that asks for a token."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    gcs, dashboard = free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RTK_CACHE": str(folder / "cache"),
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    head = [
        "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
    ]
    head += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    # Ports of its own, for the tests' Ray session has an agent on the default one.
    head.append(f"--dashboard-agent-listen-port={free_port()}")
    # A folder of its own, so that no other Ray takes this head for the machine's current cluster; a short
    # path, for it holds sockets.
    sockets = tempfile.mkdtemp(prefix="ray-")
    head.append(f"--temp-dir={sockets}")
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(head, env=environment, stdout=log, stderr=log, cwd=folder)
        environment["RAY_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
        try:
            _wait_until_ready(environment, process)
            yield environment
        finally:
            for part in [*psutil.Process(process.pid).children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    part.kill()
            process.wait(60)
            shutil.rmtree(sockets, ignore_errors=True)


def _wait_until_ready(environment, process) -> None:
    """A head lists jobs before its agent takes any, so a first job is tried until it runs."""
    trial = ["ray", "job", "submit", "--", "true"]
    for _ in range(60):
        assert process.poll() is None, "the head ended"
        if subprocess.run(trial, env=environment, capture_output=True, timeout=100).returncode == 0:
            return
        time.sleep(1)
    raise TimeoutError("no head within 60 tries")


def submit(environment, *command: str) -> subprocess.CompletedProcess:
    arguments = ["ray", "job", "submit", "--runtime-env", "jobs/runtime_env.yaml", "--", "python", *command]
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


def test_no_file_of_the_package_is_left_out():
    from ray._private.runtime_env.packaging import _get_excludes

    excludes = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["excludes"]
    is_excluded = _get_excludes(ROOT, excludes)
    assert not [path for path in (ROOT / "rtk").rglob("*.*") if is_excluded(path)]
    assert is_excluded(ROOT / "tests" / "conftest.py")


def test_train_and_evaluate(cluster, tmp_path):
    trained = submit(cluster, "jobs/train.py", *SMALL, f"output={tmp_path}")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "finished" in trained.stdout
    run = re.search(rf"finished: ({re.escape(str(tmp_path))}/\S+)", trained.stdout).group(1)
    evaluated = submit(cluster, "jobs/evaluate.py", run)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert "DS-AURC" in evaluated.stdout
    assert Path(run, "evaluation", "report.html").exists()


def test_failure_shows_in_the_exit_status(cluster):
    failed = submit(cluster, "jobs/train.py", "digits_demo", "optimzer.lr=1")
    assert failed.returncode != 0
    assert "nearest valid key is 'optimizer.lr'" in failed.stdout + failed.stderr


def test_a_stranger_without_the_token_is_refused(cluster, tmp_path):
    (tmp_path / "wrong").write_text(secrets.token_hex(32))
    stranger = {**cluster, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    assert submit(stranger, "jobs/train.py", *SMALL).returncode != 0
