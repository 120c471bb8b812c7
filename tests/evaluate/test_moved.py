"""A run whose images have moved: evaluated, resumed and exported by their content, not by their path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.config import ConfigError
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import content_hash, open_dataset
from rtk.deploy.export import export_run
from rtk.deploy.packaged_model import PackagedModel
from rtk.evaluate.run_decision import current_decision
from rtk.evaluate.sets import binding_record, evaluation_config, evaluation_selections
from rtk.runs.data_record import DataRecord
from rtk.runs.folder import RunFolder
from rtk.train.launch import open_for_training, resumed_config
from tests.test_old_folders import OLD

CLASSES = [str(digit) for digit in range(8)]


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    """A finished run, trained on `data/*.parquet` of the working folder."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path(shutil.copytree(OLD / "run", tmp_path / "runs" / "run")))
    shutil.copytree(Path(resolve_path("builtin:digits/train.parquet")).parent, tmp_path / "data")
    text = (run.path / "config.yaml").read_text().replace("builtin:digits/", "data/")
    (run.path / "config.yaml").write_text(text)
    record(run, folder=str(tmp_path), classes=CLASSES)
    return run


def record(run: RunFolder, **changes) -> None:
    files = {name: run.path.parents[1] / "data" / f"{name}.parquet" for name in ("train", "validation")}
    hashes = {name: content_hash(open_dataset(file)) for name, file in files.items()}
    run.write_json("environment.json", {"rtk": "0.1.0", "data": hashes, **changes})


def selections(run: RunFolder, *overrides: str):
    config = evaluation_config(run, overrides)
    return evaluation_selections(config, record=binding_record(run, config))


def move(folder: Path) -> list[str]:
    """Put the data elsewhere; overrides that say where."""
    folder.joinpath("data").rename(folder / "moved")
    files = {name: name for name in ("train", "validation", "test")}
    files |= {"near_ood.digits89": "near_digits89", "far_ood.photos": "far_photos"}
    return [f"data.{key}=moved/{file}.parquet" for key, file in files.items()]


def test_a_run_is_evaluated_from_any_folder(run, tmp_path, monkeypatch):
    here = selections(run)
    monkeypatch.chdir("/")
    there = selections(run)
    assert there.keys() == here.keys()
    assert Path(there["train"].dataset.path) == tmp_path / "data" / "train.parquet"


def test_images_elsewhere_are_taken_by_their_content(run, tmp_path):
    overrides = move(tmp_path)
    with pytest.raises(
        ConfigError, match=r"data\.train: .*does not exist; where it has moved to, data\.train="
    ):
        selections(run)
    assert selections(run, *overrides)["train"].dataset.path == "moved/train.parquet"


def test_other_images_are_refused_with_both_hashes(run, tmp_path):
    files = (tmp_path / "data" / f"{name}.parquet" for name in ("train", "test"))
    trained, other = (content_hash(open_dataset(file)) for file in files)
    hashes = f"got the content hash {other}, wanted {trained}"
    with pytest.raises(ConfigError, match=rf"data\.train: data/test\.parquet holds other .* {hashes}"):
        selections(run, "data.train=data/test.parquet", "data.test=data/validation.parquet")
    shutil.copy(tmp_path / "data" / "test.parquet", tmp_path / "data" / "train.parquet")
    with pytest.raises(ConfigError, match=hashes):
        selections(run)  # the path is right, what lies there is not


def test_an_evaluation_may_bring_other_validation_images_but_not_by_chance(run, tmp_path):
    assert selections(run, "data.validation=data/near_digits89.parquet", "data.near_ood={}")
    shutil.copy(tmp_path / "data" / "far_photos.parquet", tmp_path / "data" / "validation.parquet")
    with pytest.raises(ConfigError, match=r"data\.validation: data/validation\.parquet holds other images"):
        selections(run)


def test_a_run_is_resumed_with_images_elsewhere_and_remembers_where(run, tmp_path, monkeypatch):
    kept = resumed_config(run, ["train.duration=3ep"])
    assert kept.data.train == "data/train.parquet"
    overrides = move(tmp_path)[:2]  # training and validation images: a resume opens no test set
    changed = resumed_config(run, overrides)
    assert changed.data.train == str(tmp_path / "moved" / "train.parquet")
    monkeypatch.chdir("/")
    without = {"validation_near_ood": {}, "validation_far_ood": {}}  # these were not moved
    data = changed.data.model_copy(update=without)
    located = run.located(changed.model_copy(update={"data": data}))
    sets = open_for_training(located, DataRecord.read(run.path))
    assert sets.train.rows == open_dataset(tmp_path / "moved" / "train.parquet").rows
    other = located.data.model_copy(update={"train": str(tmp_path / "moved" / "test.parquet")})
    with pytest.raises(ConfigError, match=r"holds other images or labels .* got the content hash"):
        open_for_training(located.model_copy(update={"data": other}), DataRecord.read(run.path))
    with pytest.raises(ConfigError, match="resume: data.outliers: None -> '/x'"):
        resumed_config(run, ["data.outliers=/x"])


def test_export_reads_no_images(run, tmp_path):
    shutil.rmtree(tmp_path / "data")
    packaged = PackagedModel.load(export_run(run), "cpu")
    assert packaged.classes == CLASSES


def test_an_older_run_s_classes_are_those_of_its_training_images(run, tmp_path, capsys):
    record(run)
    move(tmp_path)
    command = ["export", str(run.path), "--no-mlflow"]
    assert main(command) == 2
    assert "data.train: data/train.parquet: does not exist" in capsys.readouterr().err
    assert main([*command, "data.train=moved/test.parquet"]) == 2
    assert "wanted " in capsys.readouterr().err
    assert main([*command, "data.train=moved/train.parquet"]) == 0
    assert PackagedModel.load(run.path / "export", "cpu").classes == CLASSES


def test_names_of_classes_outlive_a_changed_file(run, tmp_path):
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"classes": CLASSES[::-1]}))
    assert list(selections(run)["test"].labels()[:5]) == [
        7 - label for label in open_labels(tmp_path / "data" / "test.parquet")[:5]
    ]
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"classes": [*CLASSES[:7], "seven"]}))
    with pytest.raises(
        ConfigError, match=r"data\.train: its 8 classes have other names .* 'seven', and lack '7'"
    ):
        selections(run)


def open_labels(path: Path) -> list[int]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["label"])["label"].to_pylist()


def test_a_decision_is_refused_where_it_is_of_another_evaluation(run):
    rule = current_decision(run, "best")
    assert (rule.made_from, rule.risk) == ({}, read(run, "metrics")["decision"]["risk"])
    for change in (
        {"decision": {"reached": False}},
        {"decision": {"reached": True, "tau_id": 0, "tau_ood": 0}},
    ):
        result = read(run, "metrics")
        run.write_json("evaluation/metrics.json", result | change)
        with pytest.raises(ConfigError, match=r"decision\.json: thresholds of another evaluation .*--risk"):
            export_run(run)
        run.write_json("evaluation/metrics.json", result)


@pytest.mark.parametrize("name", ["checkpoint", "scores"])
def test_a_decision_is_refused_where_it_was_made_from_something_else(run, name):
    rule = read(run, "decision")
    run.write_json("evaluation/decision.json", {**rule, "made_from": {name: "0" * 64}})
    with pytest.raises(ConfigError, match=rf"decision\.json: thresholds of another {name} \(00000000, got "):
        export_run(run)


def read(run: RunFolder, name: str) -> dict:
    return json.loads((run.evaluation / f"{name}.json").read_text())
