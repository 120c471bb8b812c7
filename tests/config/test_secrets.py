"""Passwords in URIs are refused before they are copied, and never repeated."""

from __future__ import annotations

import pytest

from rtk.cli import main
from rtk.config import ConfigError, load_config
from rtk.config.load import override_config
from rtk.config.secrets import refuse_secrets, without_secrets
from rtk.evaluate.suites import load_suite
from rtk.runs.folder import RunFolder
from rtk.tracking.description import params_of
from rtk.tracking.refusals import reason_of

PLANTED = "hunter2"
WITH_SECRETS = [
    f"https://user:{PLANTED}@mlflow.example.com/path",
    f"s3://AKIAKEY:{PLANTED}@bucket/images/train",
    f"postgresql://user:{PLANTED}@host:5432/mlflow",
    f"s3://bucket/images?region=eu&secret_key={PLANTED}",
    f"https://host/images.parquet?token={PLANTED}",
]
WITHOUT = [
    "s3://bucket/images?endpoint_override=localhost:9000&scheme=http",
    "https://user@mlflow.example.com:5000/path",
    "gs://bucket/a:b@c/train",
    "sqlite:////data/a:b@c.db",
    "builtin:digits/train",
    '{"a":"s3://bucket","b":"x@y"}',
    "/data/a:b@c",
    None,
    3,
]


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_a_secret_is_refused_without_being_repeated(uri):
    with pytest.raises(ConfigError, match=r"tracking.uri: the URI holds a password or a key.*AWS_") as caught:
        refuse_secrets("tracking.uri", uri)
    assert PLANTED not in str(caught.value)
    assert PLANTED not in without_secrets(uri)
    assert "***" in without_secrets(uri)


@pytest.mark.parametrize("value", WITHOUT)
def test_what_is_no_secret_passes(value):
    refuse_secrets("data.train", value)
    assert without_secrets(str(value)) == str(value)


def test_wherever_a_config_comes_from(tmp_path, monkeypatch):
    uri = WITH_SECRETS[0]
    with pytest.raises(ConfigError, match=r"^tracking\.uri: the URI"):
        load_config("digits_ce", [f"tracking.uri={uri}"])
    with pytest.raises(ConfigError, match=r"^tracking\.uri: the URI"):
        override_config(load_config("digits_ce"), {"tracking.uri": uri})
    recipe, suite = tmp_path / "mine.yaml", tmp_path / "suite.yaml"
    recipe.write_text("base: digits_ce\ntracking: {uri: 'https://user:${PLANTED}@host/'}\n")
    suite.write_text(f"far: {{cats: '{WITH_SECRETS[1]}'}}\n")
    monkeypatch.setenv("PLANTED", PLANTED)
    with pytest.raises(ConfigError, match=r"^tracking\.uri: the URI"):
        load_config(recipe)
    with pytest.raises(ConfigError, match=r"^suite suite: far\.cats: the URI"):
        load_suite(suite)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits_ce", f"tracking.uri={WITH_SECRETS[0]}"],
        ["evaluate", "last", "--ood", f"near:cats={WITH_SECRETS[1]}"],
        ["data", "prepare", WITH_SECRETS[1], "--out", "there"],
        ["predict", "last", WITH_SECRETS[4]],
        ["trian", "digits_ce", f"tracking.uri={WITH_SECRETS[0]}"],
        ["runs", "ls", f"--outptu={WITH_SECRETS[1]}"],
    ],
)
def test_on_the_command_line(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert "the URI holds a password or a key" in said.err
    assert PLANTED not in said.err + said.out
    assert not list(tmp_path.iterdir())


def test_a_run_of_before_keeps_it_to_itself(tmp_path):
    config = load_config("digits_ce", [f"output={tmp_path}"])
    tracking = config.tracking.model_copy(update={"uri": WITH_SECRETS[0]})
    run = RunFolder.create(config.model_copy(update={"tracking": tracking}))
    assert run.config().tracking.uri == WITH_SECRETS[0]  # it goes on
    params = {param.key: param.value for param in params_of(run)}
    assert params["tracking.uri"] == "https://user:***@mlflow.example.com/path"
    assert PLANTED not in reason_of(ConnectionError(f"no answer at {WITH_SECRETS[0]}"))
