"""MLflow as a mirror: nothing is lost and nothing is sent twice, whatever fails in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.config.search_space import parse_space
from rtk.config.yaml_files import dump_yaml
from rtk.runs.folder import held
from rtk.runs.sweep import Sweep
from rtk.tracking.mirror import Mirror
from rtk.tracking.refusals import reason_of
from rtk.tracking.sending import quietly, sync
from rtk.tracking.status import note_status
from rtk.tracking.sweep_mirror import SweepMirror
from tests.tracking.sent_runs import append, check_whole, new_run

pytestmark = pytest.mark.slow


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
