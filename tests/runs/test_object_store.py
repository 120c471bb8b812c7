"""Object storage: whole objects or errors, whatever the server does."""

from __future__ import annotations

import time

import pytest

from rtk.config import ConfigError
from rtk.runs.object_store import TIMEOUT, ObjectStore, StorageError, is_uri, parse_uri
from tests.object_storage import Faults, in_folder, unreliable, uri_of


@pytest.fixture
def store(bucket) -> ObjectStore:
    return ObjectStore(parse_uri(in_folder(bucket, "runs/a #1")))


@pytest.mark.parametrize("name", ["a.txt", "deep/er/b.txt", "100 % #1?.txt", "café.txt"])
def test_what_is_sent_comes_back_as_it_was(store, tmp_path, name):
    (tmp_path / "here").write_bytes(b"abc" * 1000)
    sent = store.upload(tmp_path / "here", name)
    assert store.entries() == {name: sent}
    assert store.entry(name) == sent
    assert sent.size == 3000
    store.download(name, tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"abc" * 1000
    assert (tmp_path / "there").stat().st_mtime_ns == sent.written
    store.delete(name)
    store.delete(name)  # once more is no error
    assert store.entries() == {}
    assert store.entry(name) is None


def test_folders_are_listed_by_name(bucket, tmp_path):
    (tmp_path / "here").write_bytes(b"a")
    store = ObjectStore(parse_uri(in_folder(bucket, "runs")))
    for name in ("b/config.yaml", "a/config.yaml", "file"):
        store.upload(tmp_path / "here", name)
    assert store.folders() == ["a", "b"]


def test_a_missing_object_is_missing_at_once_and_leaves_nothing(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.download("none", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_told_at_once(bucket, tmp_path):
    uri = parse_uri(in_folder(bucket.replace("s3://", "s3://no-"), "runs"))
    (tmp_path / "here").write_bytes(b"a")
    started = time.monotonic()
    with pytest.raises(
        StorageError, match=r"s3://no-b.*/runs/name.*: .*(NO_SUCH_BUCKET|not found|does not exist)"
    ):
        ObjectStore(uri).upload(tmp_path / "here", "name")
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_lasting_outage_ends_in_an_error_after_the_time_allowed(monkeypatch, tmp_path):
    monkeypatch.setenv(TIMEOUT, "1")
    (tmp_path / "here").write_bytes(b"a")
    store = ObjectStore(parse_uri(in_folder(uri_of(9, "bucket"), "runs")))  # nothing listens there
    with pytest.raises(StorageError, match=r"s3://bucket/runs/name.*tried for 1 s, RTK_STORAGE_TIMEOUT"):
        store.upload(tmp_path / "here", "name")


@pytest.mark.slow
def test_errors_resets_and_cut_answers_tear_nothing(bucket, storage_port, tmp_path):
    faults = Faults(seed=1, error=0.2, reset=0.05, cut=0.05)
    with unreliable(storage_port, faults) as port:
        store = ObjectStore(parse_uri(in_folder(uri_of(port, parse_uri(bucket).bucket), "runs")))
        for number in range(12):
            content = bytes([number]) * (1 + 5000 * number)
            (tmp_path / "here").write_bytes(content)
            assert store.upload(tmp_path / "here", f"{number}").size == len(content)
            store.download(f"{number}", tmp_path / "there")
            assert (tmp_path / "there").read_bytes() == content
        assert len(store.entries()) == 12
    assert faults.injected > 5


def test_places_of_other_kinds_are_refused():
    assert is_uri("s3://bucket/a")
    assert is_uri("gs://bucket/a")
    assert not is_uri("runs/a")
    with pytest.raises(ConfigError, match="got ftp://, wanted a folder, s3:// or gs://"):
        is_uri("ftp://host/a")
    for wrong in ("s3:///a", "s3://bucket/../a", "s3://bucket/a//b"):
        with pytest.raises(ConfigError, match=r"wanted a bucket and a folder in it, s3://BUCKET/FOLDER"):
            parse_uri(wrong)


@pytest.mark.parametrize("text", ["soon", "0", "-1"])
def test_the_time_allowed_is_a_number(bucket, monkeypatch, text):
    monkeypatch.setenv(TIMEOUT, text)
    with pytest.raises(
        ConfigError, match=f"RTK_STORAGE_TIMEOUT: got '{text}', wanted a number of seconds above 0"
    ):
        ObjectStore(parse_uri(bucket)).entries()
