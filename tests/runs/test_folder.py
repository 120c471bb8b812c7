import pytest

from rtk.config import ConfigError, load_config
from rtk.config.yaml_files import dump_yaml, read_mapping
from rtk.runs.folder import RunFolder, held
from rtk.train import launch


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))


def test_name_and_config_survive(run, tmp_path):
    assert run.name.startswith("digits_ce-2")
    assert RunFolder.open(run.name, str(tmp_path)).config() == run.config()
    assert RunFolder.open(run.path) == run


def test_metrics_are_read_back_exactly(run):
    run.append_metrics(3, 0.5, {"train/loss": 0.1 + 0.2, "val/aurc": float("nan")})
    run.append_metrics(6, 1.0, {"train/loss": 1e-300})
    rows = run.read_metrics()
    assert [row["value"] for row in rows[::2]] == [0.1 + 0.2, 1e-300]
    assert [row["step"] for row in rows] == [3, 3, 6]
    run.drop_metrics_after(3)
    assert [row["key"] for row in run.read_metrics()] == ["train/loss", "val/aurc"]


def test_json_files_and_stop_requests(run):
    assert run.read_json("progress.json") is None
    run.write_json("progress.json", {"step": 1})
    assert run.read_json("progress.json") == {"step": 1}
    assert not run.stop_requested()
    run.request_stop()
    assert run.stop_requested()
    run.clear_stop()
    assert not run.stop_requested()
    run.request_save()
    assert run.requests() == (False, True)
    run.clear_save()
    assert run.requests() == (False, False)


def test_one_process_at_a_time(run):
    busy = pytest.raises(ConfigError, match=f"run: {run.name} is being run by another process")
    with held(run.path, "run"), busy:
        launch.resume_training(run, [])
    with held(run.path, "run"):
        pass


def test_a_trial_of_a_running_sweep_is_left_alone(tmp_path):
    trial = RunFolder.create(load_config("digits_ce", [f"output={tmp_path / 'sweep'}"]), "trial-0000")
    (tmp_path / "sweep" / "sweep.yaml").write_text("{}")
    busy = pytest.raises(ConfigError, match="sweep: sweep is being run by another process")
    with held(tmp_path / "sweep", "sweep"), busy:
        launch.resume_training(trial, [])


def test_missing_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="run: got 'nope', wanted a run folder"):
        RunFolder.open("nope", str(tmp_path))


def test_openmix_of_a_config_from_before_mixoe_is_mixoe(run):
    """The term kept its loss and got its own name; what OpenMix is now, no older config can mean."""
    path = run.path / "config.yaml"
    tree = read_mapping(path)
    del tree["objective"]["mixoe"], tree["model"]["reject_class"]
    tree["data"]["outliers"] = "outliers.parquet"
    tree["objective"]["openmix"] = {"weight": 0.5, "alpha": 10.0}
    path.write_text(dump_yaml(tree))
    objective = run.stored_config().objective
    assert objective.active().keys() == {"cross_entropy", "mixoe"}
    assert (objective.mixoe.weight, objective.mixoe.alpha, objective.mixoe.mix) == (0.5, 10.0, "mixup")
    with pytest.raises(ConfigError, match=r"^model.reject_class: .*objective.mixoe"):
        load_config(path)  # as a recipe it may mean either
