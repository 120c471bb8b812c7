"""MLflow as a mirror: nothing is lost and nothing is sent twice, whatever fails in between."""

from __future__ import annotations

import json
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
from rtk.config.yaml_files import dump_yaml
from rtk.runs.folder import RunFolder, held
from rtk.runs.sweep import Sweep
from rtk.tracking.mirror import Mirror
from rtk.tracking.refusals import reason_of
from rtk.tracking.sending import kept_up_to_date, quietly, sync
from rtk.tracking.status import note_status
from rtk.tracking.sweep_mirror import SweepMirror
from tests.tracking.slow_proxy import slow_proxy

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
OUTAGE_SECONDS = 5
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def new_run(output: Path, uri: str | None, name: str | None = None) -> RunFolder:
    overrides = [f"output={output}", *([f"tracking.uri={uri}"] if uri else [])]
    run = RunFolder.create(load_config("digits_ce", overrides), name)
    run.write_json("environment.json", {"packages": {"torch": "2"}, "data": {"train": "abc"}})
    return run


def append(run: RunFolder, steps) -> None:
    for step in steps:
        run.append_metrics(step, step / 10, {"train/lr": 1 / (step + 1), "val/aurc": step})


def histories(run: RunFolder) -> dict[str, list[int]]:
    """Steps of every metric that MLflow holds of a run, in the order of its rows."""
    mirror = Mirror(run)
    client, run_id = mirror._connect(), mirror._state()["run_id"]
    keys = client.get_run(run_id).data.metrics
    return {key: sorted(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


def check_whole(run: RunFolder, steps) -> None:
    assert histories(run) == {key: list(steps) for key in ("train/lr", "val/aurc", "epoch")}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty MLflow database; making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("database")
    Mirror(new_run(folder, None)).send()
    return folder / "mlflow.db"


@pytest.fixture
def output(tmp_path, database):
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


def test_steps_of_a_resumed_run_are_sent_once(output):
    run = new_run(output, None)
    append(run, range(10))
    mirror = Mirror(run)
    assert mirror.send() == 30
    run.drop_metrics_after(5)
    append(run, range(6, 12))  # later times, the same steps
    assert mirror.send() == 6
    check_whole(run, range(12))


def test_a_crash_before_the_id_is_written_makes_no_second_run(output):
    run = new_run(output, None)
    append(run, range(5))
    Mirror(run).send()
    (run.path / "mlflow.json").unlink()
    Mirror(run).send()
    check_whole(run, range(5))
    found = Mirror(run)._connect().search_runs(["1"], f"tags.`rtk.folder` = '{run.path}'")
    assert len(found) == 1
    assert found[0].data.params["hash.train"] == "abc"
    assert found[0].data.params["version.torch"] == "2"


def test_a_run_in_the_place_of_one_that_is_gone_is_another(output):
    ids = []
    for steps in (5, 3):
        run = new_run(output, None, "mine")
        note_status(run, "RUNNING")
        append(run, range(steps))
        Mirror(run).send()
        (run.path / "mlflow.json").unlink()  # as after a crash: the run is found again, the other is not
        Mirror(run).send()
        check_whole(run, range(steps))
        ids.append(Mirror(run)._state()["run_id"])
        shutil.rmtree(run.path)
    assert ids[0] != ids[1]


def test_a_database_that_was_deleted_is_made_again(output, database):
    quoted = output / "it's here"
    quoted.mkdir()
    shutil.copy(database, quoted / "mlflow.db")
    run = new_run(quoted, None)
    append(run, range(5))
    Mirror(run).send()
    (quoted / "mlflow.db").unlink()
    shutil.copy(database, quoted / "mlflow.db")
    Mirror(run).send()
    check_whole(run, range(5))


def test_sets_of_any_name_are_sent(output, caplog):
    run = new_run(output, None)
    tree = run.config_tree()
    tree["data"]["near_ood"] = {"cats+dogs (50%)": "cats.parquet"}
    tree["name"] = "mine: first/second"
    (run.path / "config.yaml").write_text(dump_yaml(tree))
    run.append_metrics(3, 0.3, {"test/auroc/knn/cats+dogs (50%)": 0.75, "test/accuracy": 0.5})
    (run.checkpoints / "best").mkdir()
    (run.checkpoints / "best" / "state.json").write_text('{"step": 3}')
    note_status(run, "FINISHED", keep_checkpoints=True)
    mirror = Mirror(run)
    assert mirror.send(files=True) == 2
    client, run_id = mirror._connect(), mirror._state()["run_id"]
    data = client.get_run(run_id).data
    assert data.metrics == {"test/auroc/knn/cats_x2b_dogs _x28_50_x25__x29_": 0.75, "test/accuracy": 0.5}
    assert data.params["data.near_ood.cats_x2b_dogs _x28_50_x25__x29_"] == "cats.parquet"
    assert client.get_model_version_by_alias("mine_x3a_ first_x2f_second", "best").run_id == run_id
    assert caplog.text == ""
    assert mirror.send(files=True) == 0


def test_what_is_refused_for_good_is_named_and_the_rest_goes_on(output, caplog):
    run = new_run(output, None)
    append(run, range(3))
    run.append_metrics(1, 0.1, {"test/accuracy": 0.5})
    rows = (run.path / "metrics.csv").read_text().splitlines()
    (run.path / "metrics.csv").write_text("\n".join([*rows, "1,0.1,-5,train/of_yore,0.5", ""]))
    note_status(run, "FINISHED")
    mirror = Mirror(run)
    assert quietly(mirror.send)
    assert quietly(mirror.send)
    (warning,) = caplog.messages
    assert "MLflow refuses 'train/of_yore', it is left out there" in warning
    client, run_id = mirror._connect(), mirror._state()["run_id"]
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert sorted(found.data.metrics) == ["epoch", "test/accuracy", "train/lr", "val/aurc"]


def test_what_is_deleted_in_mlflow_is_named_with_the_ways_out(output, caplog, capsys):
    run = new_run(output, None)
    append(run, range(3))
    mirror = Mirror(run)
    mirror.send()
    client, run_id = mirror._connect(), mirror._state()["run_id"]
    client.delete_run(run_id)
    append(run, range(3, 5))
    assert not quietly(mirror.send)  # while the run goes on
    assert "MLflow answers" in caplog.text
    assert main(["sync", str(run.path)]) == 1
    assert f"not sent, MLflow's run {run_id} is deleted: `MLFLOW_TRACKING_URI=" in capsys.readouterr().out
    client.restore_run(run_id)
    client.delete_experiment("1")
    for stuck in (run, new_run(output, None)):
        assert main(["sync", str(stuck.path)]) == 1
        assert "mlflow experiments restore --experiment-id 1`" in capsys.readouterr().out
    client.restore_experiment("1")
    assert main(["sync", "--output", str(output)]) == 0
    check_whole(run, range(5))


def test_the_reason_is_what_failed_not_advice():
    advice = "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block)"
    assert reason_of(OSError(f"{advice}\n(sqlite3.OperationalError) database or disk is full\n[SQL]")) == (
        "(sqlite3.OperationalError) database or disk is full"
    )
    assert reason_of(OSError(advice)) == advice
    assert reason_of(OSError()) == "OSError"


def test_a_folder_with_both_kinds_of_quotes_is_found_again(output):
    run = new_run(output, None, """it's "mine\"""")
    other = new_run(output, None, "it_s _mine_")
    run_ids = [Mirror(each)._state()["run_id"] for each in (run, other)]
    for each in (run, other):
        (each.path / "mlflow.json").unlink()
    assert [Mirror(each)._state()["run_id"] for each in (run, other)] == run_ids


def test_trials_of_the_same_name_are_synced_and_told_apart(output, capsys):
    space = parse_space(
        {"objectives": {"val/aurc": "min"}, "space": {"optimizer.lr": {"uniform": [0.1, 1]}}}, "here"
    )
    runs = []
    for name in ("one", "two"):
        sweep = Sweep.create(space, load_config("digits_ce", [f"output={output}"]), name)
        runs.append(new_run(sweep.path, None, "trial-0000"))
        append(runs[-1], range(3))
    assert main(["sync", "--output", str(output), "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert sent == {"one": 0, "two": 0, "one/trial-0000": 9, "two/trial-0000": 9}
    append(runs[0], range(3, 4))
    assert main(["sync", str(output / "one")]) == 0
    assert "one/trial-0000: 3 rows sent" in capsys.readouterr().out


def test_a_run_whose_process_has_died_is_said_to_have_failed(output, caplog):
    run = new_run(output, None)
    append(run, range(3))
    note_status(run, "RUNNING")
    with held(run.path, "run"):
        assert sync([run]) == {run.name: 9}
        assert Mirror(run)._connect().get_run(Mirror(run)._state()["run_id"]).info.status == "RUNNING"
    assert sync([run]) == {run.name: 0}
    info = Mirror(run)._connect().get_run(Mirror(run)._state()["run_id"]).info
    assert info.status == "FAILED"
    assert info.end_time == int(run.read_metrics()[-1]["time"] * 1000)
    assert f"{run.name}: its process ended without a word" in caplog.text


def test_status_files_and_models_under_their_aliases(output):
    run = new_run(output, None)
    for name in ("best", "last"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "state.json").write_text('{"step": 7}')
    (run.evaluation / "report.html").write_text("report")
    (run.evaluation / "predictions").mkdir()
    (run.evaluation / "predictions" / "test.parquet").write_bytes(b"p")
    note_status(run, "FINISHED", keep_checkpoints=True)
    mirror = Mirror(run)
    for _ in range(2):
        mirror.send(files=True)
    client, run_id = mirror._connect(), mirror._state()["run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(run_id, "evaluation/predictions")] == [
        "evaluation/predictions/test.parquet"
    ]
    versions = {alias: client.get_model_version_by_alias("digits_ce", alias) for alias in ("best", "last")}
    assert {v.run_id for v in versions.values()} == {run_id}
    assert len(client.search_model_versions("name='digits_ce'")) == 2
    local = client.download_artifacts(run_id, "checkpoints/best/state.json")
    assert "7" in Path(local).read_text()


def test_a_duration_is_that_of_the_training_whatever_comes_after(output):
    run = new_run(output, None)
    note_status(run, "RUNNING")
    note_status(run, "FINISHED")
    run.write_json("status.json", run.read_json("status.json") | {"started": 1000.0, "ended": 1060.5})
    mirror = Mirror(run)
    mirror.send()  # long after it has ended, as by `rtk sync`
    client, run_id = mirror._connect(), mirror._state()["run_id"]

    def times():
        info = client.get_run(run_id).info
        return [info.start_time, info.end_time]

    assert times() == [1_000_000, 1_060_500]
    client.set_terminated(run_id)  # as MLflow does where an export opens the run to log a model
    mirror.send_status_again()
    assert times() == [1_000_000, 1_060_500]
    note_status(run, "FINISHED", keep_checkpoints=True, best="true")  # as of a sweep's best trial at its end
    assert run.read_json("status.json")["ended"] == 1060.5
    note_status(run, "RUNNING")  # a resume
    assert {key: run.read_json("status.json").get(key) for key in ("started", "ended")} == {
        "started": 1000.0, "ended": None,
    }  # fmt: skip


def test_a_sweep_is_a_parent_with_its_trials_as_children(output):
    space = parse_space(
        {"objectives": {"val/aurc": "min"}, "space": {"optimizer.lr": {"uniform": [0.1, 1]}}}, "here"
    )
    sweep = Sweep.create(space, load_config("digits_ce", [f"output={output}"]), "s")
    trials = [new_run(sweep.path, None, f"trial-{number:04d}") for number in range(2)]
    for run in trials:
        append(run, range(3))
    note_status(trials[0], "FAILED", reason="out of memory")
    mirror = SweepMirror(sweep.path)
    mirror.send()
    client = mirror.parent._connect()
    parent = mirror.parent._state()["run_id"]
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {child.info.run_name for child in children} == {"trial-0000", "trial-0001"}
    failed = next(child for child in children if child.info.run_name == "trial-0000")
    assert failed.info.status == "FAILED"
    assert failed.data.tags["rtk.reason"] == "out of memory"
    check_whole(trials[1], range(3))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_server(folder: Path, port: int) -> subprocess.Popen:
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
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
