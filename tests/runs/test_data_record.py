"""What a run was trained on is known by its content; where it lies may change."""

import json
from pathlib import Path

import pytest

from rtk.config import load_config
from rtk.config.data import SETS
from rtk.data.sets.of_run import RunSets
from rtk.runs.data_record import DataRecord, absolute, located, remember_classes
from rtk.runs.folder import RunFolder


def write(where: Path, **content) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "environment.json").write_text(json.dumps(content))
    return where


def test_every_key_that_names_images_is_known():
    assert list(SETS) == list(RunSets.__dataclass_fields__)


def test_a_record_is_read_also_of_older_runs(tmp_path):
    assert DataRecord.read(tmp_path) == DataRecord()
    old = write(tmp_path / "old", rtk="0.1.0", data={"train": "aa", "near:halves": "bb"})
    assert DataRecord.read(old) == DataRecord({"train": "aa", "validation_near_ood.halves": "bb"})
    new = write(tmp_path / "new", data={"train": "aa"}, classes=["a", "b"], folder="/work")
    assert DataRecord.read(new) == DataRecord({"train": "aa"}, ("a", "b"), "/work")


def test_only_what_is_known_by_its_content_may_have_moved():
    record = DataRecord({"train": "aa", "validation_near_ood.a.b": "bb"})
    assert record.is_moved("data.train", "/elsewhere")
    assert record.is_moved("data.validation_near_ood.a.b", "/elsewhere")
    assert not record.is_moved("data.train", None)
    assert not record.is_moved("data.validation", "/elsewhere")


def test_classes_are_written_down_once(tmp_path):
    folder = write(tmp_path, rtk="0.1.0", data={"train": "aa"})
    remember_classes(folder, ["a", "b"])
    remember_classes(folder, ["c"])
    assert json.loads((folder / "environment.json").read_text()) == {
        "rtk": "0.1.0", "data": {"train": "aa"}, "classes": ["a", "b"],
    }  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with `data/train.parquet`, the working folder, and a run of it in `runs`."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.parquet").write_bytes(b"")
    monkeypatch.chdir(folder)
    config = load_config("digits_ce", ["data.train=data/train.parquet", "data.far_ood.x=data/gone.parquet"])
    run = RunFolder.create(config)
    write(run.path, folder=str(folder))
    return folder, run


def test_relative_paths_are_found_from_any_folder(project, tmp_path, monkeypatch):
    folder, run = project
    assert run.config().data.train == "data/train.parquet"  # nothing is changed where it is right
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "data" / "train.parquet").write_bytes(b"another project's")
    data = run.config().data
    assert Path(data.train) == folder / "data" / "train.parquet"
    assert data.far_ood["x"] == "data/gone.parquet"
    assert data.test == "builtin:digits/test.parquet"


def test_a_project_that_has_moved_as_a_whole_finds_its_data(project, tmp_path, monkeypatch):
    folder, run = project
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "moved")
    moved = RunFolder.open(tmp_path / "moved" / "runs" / run.name)
    assert Path(moved.config().data.train) == tmp_path / "moved" / "data" / "train.parquet"


def test_without_a_record_the_working_folder_comes_first(project, tmp_path, monkeypatch):
    _, run = project
    (run.path / "environment.json").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert run.config().data.train == "data/train.parquet"
    monkeypatch.chdir("/")
    assert Path(located(run.config().data, run.path).train) == project[0] / "data" / "train.parquet"


def test_what_is_not_here_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.parquet").touch()
    assert absolute("a.parquet") == str(tmp_path / "a.parquet")
    assert [absolute(path) for path in ("s3://bucket/a", "builtin:digits/a", "gone")] == [
        "s3://bucket/a", "builtin:digits/a", "gone",
    ]  # fmt: skip
