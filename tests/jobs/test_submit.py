"""Demo-sized jobs by `rtk submit` and Ray's own command line, on a local head with token authentication."""

from __future__ import annotations

import json
import os
import pty
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rtk.runs.checkpoint_faults import faults_of
from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.listing import status_of
from rtk.train.gauges import OF_RANK, OF_RUN, OF_TERM
from tests.deploy.random_package import encoded, random_package

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = ["digits_demo", "model.width=4", "data.train_rows=256", "train.duration=1ep", "train.workers=1"]


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
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RTK_CACHE": str(folder / "cache"),
        "RAY_metrics_report_interval_ms": "1000",
        "METRICS": f"http://127.0.0.1:{metrics}/metrics",
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
        f"--metrics-export-port={metrics}",
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
        environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
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
    """A head answers before its agent takes any job, so a first one is tried until it is taken."""
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/",
        data=b'{"entrypoint": "true"}',
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    for _ in range(120):
        assert process.poll() is None, "the head ended"
        with suppress(OSError), urllib.request.urlopen(request, timeout=100):
            return
        time.sleep(1)
    raise TimeoutError("no head within 120 tries")


def run(environment, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=400
    )


def test_train_with_rtk_and_evaluate_with_ray(cluster, tmp_path):
    trained = run(cluster, "rtk", "submit", "train", *SMALL, "--output", str(tmp_path), "--name", "first")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert f"finished: {tmp_path}/first" in trained.stdout
    assert "job first succeeded" in trained.stderr
    ray = ["ray", "job", "submit", "--runtime-env", "jobs/runtime_env.yaml", "--"]
    evaluated = run(cluster, *ray, "python", "jobs/evaluate.py", f"{tmp_path}/first", "evaluate.actors=1")
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert "DS-AURC" in evaluated.stdout
    assert (tmp_path / "first" / "evaluation" / "report.html").exists()


def test_a_job_fails_with_its_own_exit_code(cluster, tmp_path):
    """A place that only the cluster can know: what is wrong with keys is said before."""
    failed = run(
        cluster,
        "rtk",
        "submit",
        "train",
        "digits_demo",
        "data.train=/nowhere",
        "--output",
        str(tmp_path),
        "--json",
    )
    assert failed.returncode == 2
    assert "data.train: /nowhere: does not exist" in failed.stderr
    told = json.loads(failed.stdout)
    assert (told["status"], told["exit_code"]) == ("failed", 2)


def interrupt(environment, answer: str, *command: str, ready: Path | None = None) -> int:
    """Exit code of a command at a terminal, where Ctrl-C is pressed and its question answered."""
    terminal, its_end = pty.openpty()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=its_end, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        os.close(its_end)
        assert any(b"Running entrypoint" in line for line in process.stdout)
        while ready is not None and not ready.exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        os.write(terminal, answer.encode())
        said = process.communicate(timeout=200)[0].decode()
    os.close(terminal)
    assert "leave the job (l), stop it" in said
    return process.returncode


def wait_for_metrics(address: str, name: str, wanted: set[str]) -> None:
    """Wait until Ray offers all of these metrics of a run to Prometheus."""
    deadline, missing = time.monotonic() + 100, wanted
    while missing:
        assert time.monotonic() < deadline, missing
        with suppress(OSError), urllib.request.urlopen(address, timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if f'run="{name}"' in line]
            missing = wanted - {line.partition("{")[0].removeprefix("ray_") for line in lines}
        time.sleep(0.5)


def test_ctrl_c_leaves_a_job_or_stops_it_with_a_checkpoint(cluster, tmp_path):
    run_folder = tmp_path / "long"
    long = ["train.duration=1000ep", "--output", str(tmp_path), "--name", "long"]
    validated = run_folder / "best.json"
    assert interrupt(cluster, "l\n", "rtk", "submit", "train", *SMALL, *long, ready=validated) == 130
    # All but what only GPUs have.
    wait_for_metrics(
        cluster["METRICS"], "long", {*OF_RUN, *OF_TERM, *OF_RANK} - {"rtk_rank_gpu_memory_bytes"}
    )
    newest = json.loads(run(cluster, "rtk", "jobs", "ls", "--json").stdout)[-1]
    assert (newest["job"], newest["status"]) == ("long", "running")
    assert interrupt(cluster, "s\n", "rtk", "jobs", "logs", "last", "--follow") == 143
    assert run(cluster, "rtk", "jobs", "stop", "long").stdout == "long: stopped\n"
    assert "interrupted" in run(cluster, "rtk", "jobs", "logs", "long").stdout
    assert status_of(RunFolder(run_folder)) == "interrupted"
    assert has_checkpoint(run_folder / "checkpoints" / "last")
    assert not faults_of(run_folder / "checkpoints" / "last")


def test_a_server_is_submitted_asked_and_stopped(cluster, tmp_path):
    random_package().save(tmp_path / "package")
    url, secret = f"http://127.0.0.1:{free_port()}", secrets.token_hex(16)
    user = {**cluster, "RTK_SERVE_TOKEN": secret}
    words = ["serve", str(tmp_path / "package"), "--port", url.rpartition(":")[2], "--no-wait", "--json"]
    submitted = run(user, "rtk", "submit", *words)
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["job"]
    for _ in range(200):
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=10):
            break
        time.sleep(0.2)
    asked = urllib.request.Request(f"{url}/predict", encoded(0), {"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert json.loads(answer.read())["label"] in ("cat", "dog", "eel")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(urllib.request.Request(f"{url}/predict", encoded(0)), timeout=60)
    logs = run(cluster, "rtk", "jobs", "logs", job).stdout
    assert "serving random, step 7, 3 classes" in logs
    assert secret not in logs + run(cluster, "rtk", "jobs", "ls", "--json").stdout
    assert run(cluster, "rtk", "jobs", "stop", job).stdout == f"{job}: stopped\n"


def test_a_stranger_without_the_token_is_refused(cluster, tmp_path):
    (tmp_path / "wrong").write_text(secrets.token_hex(32))
    stranger = {**cluster, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    refused = run(stranger, "rtk", "submit", "train", *SMALL, "--output", str(tmp_path))
    assert refused.returncode == 2
    assert "refuses this token" in refused.stderr
