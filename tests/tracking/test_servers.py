"""Servers of MLflow that are away, slow or full, and stores that several processes share."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.config.search_space import parse_space
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import Sweep
from rtk.tracking.mirror import Mirror
from rtk.tracking.sending import kept_up_to_date, quietly
from rtk.tracking.status import note_status
from rtk.tracking.sweep_mirror import SweepMirror
from tests.tracking.sent_runs import append, check_whole, new_run
from tests.tracking.slow_proxy import slow_proxy

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
OUTAGE_SECONDS = 5
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_server(folder: Path, port: int) -> subprocess.Popen:
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        # Its queue of jobs, which nothing here uses, takes processes that each load all of MLflow.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return process
        except OSError:
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
    raise TimeoutError((folder / "server.log").read_text())


def stop_server(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_server_that_is_away_for_a_while_misses_nothing(output, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    port = free_port()
    server = start_server(output, port)
    uri = f"http://127.0.0.1:{port}"
    try:
        run = new_run(output / "runs", uri)
        space = parse_space(
            {"objectives": {"val/aurc": "min"}, "space": {"optimizer.lr": {"uniform": [0.1, 1]}}}, "here"
        )
        config = load_config("digits_ce", [f"output={output / 'runs'}", f"tracking.uri={uri}"])
        sweep = Sweep.create(space, config, "s")
        trials = [new_run(sweep.path, uri, "trial-0000")]
        mirror, sweep_mirror = Mirror(run), SweepMirror(sweep.path)
        with kept_up_to_date(mirror.send, 0.5), kept_up_to_date(sweep_mirror.send, 0.5):
            for step in range(60):
                for each in (run, *trials):
                    append(each, [step])
                if step == 10:
                    while not (mirror.run.read_json("mlflow.json") or {}).get("marks"):
                        time.sleep(0.2)
                    stop_server(server)
                    stopped = time.monotonic()
                if step == 20:  # a trial that begins and one that ends while the server is away
                    trials.append(new_run(sweep.path, uri, "trial-0001"))
                    append(trials[1], range(step + 1))
                    note_status(trials[0], "RUNNING")
                if step == 40:
                    time.sleep(max(0, OUTAGE_SECONDS - (time.monotonic() - stopped)))
                    server = start_server(output, port)
                time.sleep(0.05)
        note_status(run, "FINISHED")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # it is back, if slow when busy
        assert main(["sync", "--output", str(output / "runs")]) == 0
        check_whole(run, range(60))
        check_whole(trials[0], range(60))
        check_whole(trials[1], range(60))
        assert mirror._connect().get_run(mirror._state()["run_id"]).info.status == "FINISHED"
    finally:
        stop_server(server)


@pytest.fixture(scope="module")
def server(tmp_path_factory, database):
    """A server of MLflow: its process and its port."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copy(database, folder / "mlflow.db")
    process = start_server(folder, port)
    yield process, port
    stop_server(process)


def runs_of(run: RunFolder) -> list:
    """What MLflow holds of a run's folder."""
    found = Mirror(run)._connect().search_runs(["1"], f"tags.`rtk.folder` = '{run.path}'")
    return [one.info for one in found]


def test_training_goes_on_while_replies_are_late(server, tmp_path):
    with slow_proxy(server[1]) as proxy:
        run = new_run(tmp_path, proxy.uri)
        note_status(run, "RUNNING")
        proxy.gate.clear()
        mirror = Mirror(run)
        with kept_up_to_date(mirror.send, 0.1):
            for step in range(50):
                append(run, [step])
                while step == 10 and not proxy.held:
                    time.sleep(0.05)
            assert proxy.held == 1  # all steps are done, and the first reply has not come yet
            proxy.delay = 0.5
            proxy.gate.set()
        note_status(run, "FINISHED")
        assert quietly(mirror.send, files=True)
        proxy.delay = 0
        check_whole(run, range(50))
        assert [info.status for info in runs_of(run)] == ["FINISHED"]


def test_nothing_is_doubled_where_replies_are_lost(server, tmp_path):
    with slow_proxy(server[1]) as proxy:
        run = new_run(tmp_path, proxy.uri)
        for name in ("best", "last"):
            (run.checkpoints / name).mkdir()
            (run.checkpoints / name / "state.json").write_text('{"step": 7}')
        note_status(run, "FINISHED", keep_checkpoints=True)
        append(run, range(5))
        proxy.lost = {"runs/create", "log-batch", "runs/update"}
        proxy.lost |= {"registered-models/create", "model-versions/create", "registered-models/alias"}
        wanted, mirror = len(proxy.lost), Mirror(run)
        outcomes = [quietly(mirror.send, files=True) for _ in range(wanted + 1)]
        assert not proxy.lost
        assert outcomes == [False] * wanted + [True]
        check_whole(run, range(5))
        assert [info.status for info in runs_of(run)] == ["FINISHED"]
        client, run_id = mirror._connect(), mirror._state()["run_id"]
        versions = client.search_model_versions(f"run_id = '{run_id}'")
        assert sorted(v.source.split("/")[-1] for v in versions) == ["best", "last"]
        aliases = [client.get_model_version_by_alias("digits_ce", alias).source for alias in ("best", "last")]
        assert [source.split("/")[-1] for source in aliases] == ["best", "last"]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of other processes are Linux's")
def test_a_full_disk_under_the_server_misses_nothing(server, tmp_path, caplog):
    process, port = server
    uri = f"http://127.0.0.1:{port}"
    started, begun = new_run(tmp_path, uri, "started"), new_run(tmp_path, uri, "begun")
    mirrors = [Mirror(run) for run in (started, begun)]
    append(started, range(5))
    assert quietly(mirrors[0].send)
    with full_disk(process):
        for run, mirror in zip((started, begun), mirrors, strict=True):
            append(run, range(5, 12) if run == started else range(12))
            note_status(run, "FINISHED")
            assert not quietly(mirror.send, files=True)
    assert "all is kept on disk for `rtk sync`" in caplog.text
    assert main(["sync", "--output", str(tmp_path)]) == 0
    for run in (started, begun):
        check_whole(run, range(12))
        assert [info.status for info in runs_of(run)] == ["FINISHED"]


@contextmanager
def full_disk(server: subprocess.Popen):
    """Let no process of a server write to files, as on a full disk."""
    found = [psutil.Process(server.pid)]
    found += found[0].children(recursive=True)
    for process in found:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for process in found:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def log_run(output: str, uri: str) -> None:
    run = new_run(Path(output), uri)
    mirror = Mirror(run)
    for start in range(0, 200, 20):
        append(run, range(start, start + 20))
        quietly(mirror.send)
    note_status(run, "FINISHED")
    mirror.send(files=True)


def check_four_processes(output: Path, uri: str) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=log_run, args=(str(output), uri)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * 4
    runs = [RunFolder(path.parent) for path in output.glob("*/config.yaml")]
    assert len(runs) == 4
    for run in runs:
        check_whole(run, range(200))


def test_four_processes_share_one_sqlite_store(output):
    check_four_processes(output / "runs", f"sqlite:///{output / 'mlflow.db'}")


@pytest.fixture
def postgres(tmp_path_factory):
    """URI of a PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (rtk's extra `postgres`)")
    if not POSTGRES:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql (Debian package postgresql)")
    import tempfile

    folder, port = Path(tempfile.mkdtemp(prefix="pg-")), free_port()
    user = {"user": "postgres"} if os.getuid() == 0 else {}  # PostgreSQL refuses to run as root
    if user:
        shutil.chown(folder, "postgres")
    data = str(folder / "data")
    initialise = [str(POSTGRES[-1] / "initdb"), "-D", data, "-U", "rtk", "--auth=trust", "--no-sync"]
    subprocess.run(initialise, check=True, capture_output=True, cwd=folder, **user)
    command = [str(POSTGRES[-1] / "postgres"), "-D", data, "-p", str(port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)
    try:
        ready = [str(POSTGRES[-1] / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-U", "rtk"]
        for _ in range(100):
            if subprocess.run(ready, capture_output=True).returncode == 0:
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"postgresql://rtk@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_four_processes_share_one_postgresql_store(postgres, tmp_path):
    Mirror(new_run(tmp_path / "first", postgres)).send()  # makes the tables
    check_four_processes(tmp_path / "runs", postgres)
