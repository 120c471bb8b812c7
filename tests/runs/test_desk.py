"""Workers that do not see the folder of their run speak to it through an actor."""

from __future__ import annotations

import time

import pytest

from rtk.config import load_config
from rtk.runs.desk import DistantRun, open_desk
from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import push
from rtk.scores import SCORES
from rtk.train.job import TrainingJob
from tests.object_storage import in_folder


@pytest.fixture
def run(tmp_path, ray_session) -> RunFolder:
    return RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))


@pytest.fixture
def distant(run, tmp_path) -> DistantRun:
    return DistantRun(tmp_path / "of this node", open_desk(run))


def test_what_a_worker_says_is_in_the_folder(run, distant):
    distant.append_metrics(1, 0.5, {"train/lr": 0.1})
    distant.append_metrics(2, 1.0, {"train/lr": 0.2})
    distant.write_json("ranks/00000.json", {"beats": 1})
    distant.add_notice("a word")
    distant.drop_metrics_after(1)
    distant.close()
    assert [(row["step"], row["value"]) for row in run.read_metrics()] == [(1, 0.1)]
    assert distant.read_metrics() == run.read_metrics()
    assert distant.read_json("ranks/00000.json") == {"beats": 1}
    distant.remove_json("ranks/00000.json")
    assert distant.read_json("ranks/00000.json") is None
    assert run.read_notices() == ["a word"]
    assert not distant.path.exists()


def test_a_request_to_stop_is_heard_soon(run, distant):
    assert not distant.stop_requested()
    run.request_stop()
    until = time.monotonic() + 30
    while not distant.stop_requested():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_request_to_save_is_known_at_once_by_who_makes_or_meets_it(run, distant):
    assert not distant.save_requested()  # and the question is on its way, with the answer of now
    distant.request_save()
    assert distant.save_requested()
    assert run.save_requested()
    distant.clear_save()
    assert not distant.save_requested()
    assert not run.save_requested()


def test_metrics_that_cannot_be_written_are_no_secret(run, distant):
    run.metrics_file.mkdir()
    distant.append_metrics(1, 0.5, {"train/lr": 0.1})
    with pytest.raises(OSError, match="metrics.csv"):
        distant.close()


def test_a_request_to_stop_can_come_from_elsewhere(run, distant):
    distant.request_stop()
    assert run.stop_requested()
    distant.clear_stop()
    assert not run.stop_requested()


def test_one_desk_keeps_the_runs_of_all_trials(ray_session, tmp_path):
    config = load_config("digits_ce", [f"output={tmp_path / 'sweep'}"]).model_dump(mode="json")
    line = open_desk(RunFolder(tmp_path / "sweep"))
    for name in ("trial-0000", "trial-0001"):
        line.about(name).make_run(config, {"made": name})
        distant = DistantRun(tmp_path / "of this node", line.about(name))
        distant.append_metrics(1, 0.5, {"train/lr": 0.1})
        distant.put_text("hang-step-1.txt", name)
        line.about(name).make_run(config, {"made": "again"})  # a trial that starts anew finds what it had
        run = RunFolder(tmp_path / "sweep" / name)
        assert run.read_metrics() == distant.read_metrics() != []
        assert run.read_json("environment.json") == {"made": name}
        assert (run.path / "hang-step-1.txt").read_text() == name
    assert run.config().train.workers == config["train"]["workers"]


def test_plug_ins_come_to_the_node_of_a_worker(ray_session, tmp_path, fresh_tables):
    (tmp_path / "mine.py").write_text(
        "from rtk import scores\nscores.register(scores.Score('mine', lambda logits: logits.amax(1)))\n"
    )
    given = [f"output={tmp_path}", f"plugins=[{tmp_path / 'mine.py'}]", "evaluate.scores=[mine]"]
    run = RunFolder.create(load_config("digits_ce", given))
    run.write_json("environment.json", {"plugins": {}})
    tree = run.config_tree() | {"plugins": ["/on/the/machine/of/the/driver/mine.py"]}
    job = TrainingJob(str(tmp_path / "of this node"), tree, 8, 64, False, desk=open_desk(run))
    fresh_tables()
    assert job.config.plugins == (str(tmp_path / "of this node" / "plugins" / "mine.py"),)
    assert "mine" in SCORES


def test_what_was_said_is_on_storage_once_it_is_sent(ray_session, bucket, monkeypatch, tmp_path):
    """The actor's process has another folder of working copies: it was started before this was set."""
    run = RunFolder.create(load_config("digits_ce", [f"output={in_folder(bucket, 'runs')}"]), "a")
    place, distant = run.place, DistantRun(tmp_path / "of this node", open_desk(run))
    push(run.path)  # as the driver does when it starts
    distant.append_metrics(8, 1.0, {"val/accuracy": 0.5})
    distant.send()
    monkeypatch.setenv("RTK_CACHE", str(tmp_path / "of another machine"))
    assert [row["step"] for row in RunFolder.open(place).read_metrics()] == [8]


def test_nothing_else_can_be_asked_for(distant):
    with pytest.raises(ValueError, match="got 'change_config', wanted one of append_metrics, "):
        distant._ask("change_config", None, 0)
