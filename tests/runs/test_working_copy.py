"""Working copies of folders on object storage: what one machine changes, another finds."""

from __future__ import annotations

import pytest

from rtk.runs import working_copy
from rtk.runs.folder import RunFolder
from rtk.runs.object_store import ObjectStore
from rtk.runs.working_copy import bring, cache_folder, local_folder, place_of, pull, push, push_file, store_of
from tests.object_storage import in_folder


@pytest.fixture
def machine(bucket, monkeypatch, tmp_path):
    """The working copy of a run, on the machine of a name."""

    def on(name: str):
        monkeypatch.setenv("RTK_CACHE", str(tmp_path / name))
        return local_folder(in_folder(bucket, "runs/a"))

    return on


@pytest.mark.parametrize("uri", ["s3://bucket/runs/a", "gs://bucket", "s3://b/runs?region=eu-central-1"])
def test_a_path_says_what_it_is_a_copy_of(uri):
    folder = local_folder(uri)
    assert folder.is_relative_to(cache_folder())
    assert place_of(folder) == uri
    assert store_of(folder) == ObjectStore(store_of(folder).uri)


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ("/shared/runs", "/shared/runs/a"),
        ("s3://bucket", "s3://bucket/a"),
        ("s3://bucket/runs/?region=eu-central-1", "s3://bucket/runs/a?region=eu-central-1"),
    ],
)
def test_a_place_in_a_folder_is_of_the_same_kind(place, inside):
    assert working_copy.in_folder(place, "a") == inside
    assert local_folder(inside) == local_folder(place) / "a"


def test_other_folders_are_left_alone(tmp_path):
    assert local_folder(tmp_path) == tmp_path
    assert place_of(tmp_path) == str(tmp_path)
    assert store_of(cache_folder() / "prepared") is None
    pull(tmp_path)
    assert push(tmp_path) == 0
    assert bring(str(tmp_path)) == tmp_path


def test_a_trial_s_metrics_are_sent_with_the_working_copy_of_its_sweep(machine):
    sweep = machine("here")
    trial = RunFolder(sweep / "trial-0000")
    trial.path.mkdir(parents=True)
    (sweep / "sweep.yaml").write_text("name: a")
    trial.append_metrics(1, 1.0, {"val/accuracy": 0.5})
    trial.send()  # nobody has begun to keep the copy there up to date
    assert not store_of(sweep).entries()
    push(sweep)
    trial.append_metrics(2, 2.0, {"val/accuracy": 0.6})
    trial.send()
    assert push(sweep) == 0
    pull(there := machine("there"))
    assert [row["step"] for row in RunFolder(there / "trial-0000").read_metrics()] == [1, 2]


def test_what_one_machine_changes_another_finds(machine):
    here = machine("here")
    (here / "evaluation").mkdir(parents=True)
    (here / "config.yaml").write_text("name: a")
    (here / "evaluation/table.md").write_text("1")
    assert push(here) == 2
    assert push(here) == 0
    there = machine("there")
    pull(there)
    assert (there / "evaluation/table.md").read_text() == "1"
    (there / "evaluation/table.md").write_text("22")
    assert push(there) == 1
    here = machine("here")
    pull(here)
    assert (here / "evaluation/table.md").read_text() == "22"
    (here / "evaluation/table.md").unlink()
    assert push(here) == 1
    there = machine("there")
    pull(there)
    assert not (there / "evaluation/table.md").exists()
    assert (there / "config.yaml").exists()


def test_what_has_not_been_sent_yet_is_kept(machine):
    here = machine("here")
    here.mkdir(parents=True)
    (here / "metrics.csv").write_text("1")
    push(here)
    (here / "metrics.csv").write_text("1\n2")  # and the process is killed
    pull(here)
    assert (here / "metrics.csv").read_text() == "1\n2"
    assert push(here) == 1


def test_what_has_changed_here_since_it_came_is_kept(machine):
    """Also where it came so soon that the storage's clock would not tell a later one apart."""
    there = sent(machine, "metrics.csv", "1")
    (there / "metrics.csv").write_text("1\n2")
    pull(there)
    assert (there / "metrics.csv").read_text() == "1\n2"


def sent(machine, name: str, text: str):
    """The copy on one machine, after it was sent and has come to another."""
    here = machine("here")
    here.mkdir(parents=True)
    (here / name).write_text(text)
    push(here)
    there = machine("there")
    pull(there)
    return there


def test_what_is_deleted_there_is_no_run_here_any_more(machine):
    there = sent(machine, "config.yaml", "name: a")
    store_of(there).delete("config.yaml")
    (there / "metrics.csv").write_text("1")
    pull(there)
    assert (there / "config.yaml").exists()  # something has not been sent
    (there / "metrics.csv").unlink()
    pull(there)
    assert not there.exists()


def test_servers_with_buckets_of_one_name_have_copies_of_their_own(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    copies = set()
    for address in ("", "http://127.0.0.1:9000", "http://127.0.0.1:9001"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        copies.add(local_folder("s3://bucket/runs/a"))
        assert place_of(local_folder("s3://bucket/runs/a")) == "s3://bucket/runs/a"
    assert len(copies) == 3


def test_what_is_written_twice_in_a_second_with_one_length_is_seen(machine):
    sent(machine, "best.json", "1")
    here = machine("here")
    (here / "best.json").write_text("2")
    push(here)
    there = machine("there")
    pull(there)
    assert (there / "best.json").read_text() == "2"


def test_locks_parts_and_what_is_of_the_moment_stay_here(machine):
    here = machine("here")
    for name in (".driver.lock", "ray/x", "ranks/00000.json", "stop", "checkpoints/last.json"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("1")
    for name in ("trial-0000/checkpoints/last.json", "trial-0000/ray/x", "trial-0000/config.yaml"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("1")
    assert push(here) == 1
    assert list(store_of(here).entries()) == ["trial-0000/config.yaml"]


def test_a_file_is_brought_again_once_it_has_changed(machine, bucket):
    place = in_folder(bucket, "runs/a/weights.safetensors")
    here = machine("here")
    here.mkdir(parents=True)
    (here / "weights.safetensors").write_text("1")
    push_file(here / "weights.safetensors")
    machine("there")
    assert bring(place).read_text() == "1"
    here = machine("here")
    (here / "weights.safetensors").write_text("2")
    push_file(here / "weights.safetensors")
    machine("there")
    assert bring(place).read_text() == "2"
    assert bring(in_folder(bucket, "runs/a")).is_dir()
