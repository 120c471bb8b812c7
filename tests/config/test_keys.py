"""What is said about config keys: read from the schema, so that nothing can be missing or stale."""

import json

import pytest

from rtk.cli import main
from rtk.config.errors import ConfigError
from rtk.config.keys import config_keys, keys_of, section_summaries
from rtk.config.load import flatten, load_config, valid_keys
from rtk.config.schema import RunConfig
from rtk.config.search_space import Parameter, SearchSpace


@pytest.mark.parametrize("model", [RunConfig, SearchSpace, Parameter])
def test_every_key_has_a_description_and_a_type(model):
    for key in keys_of(model):
        assert key.description, key.key
        assert "any" not in key.type.replace("any value", "").split(), key.key
        assert not key.description.endswith("."), key.key


def test_the_keys_are_those_of_the_schema():
    keys, sections = {key.key for key in config_keys()}, set(section_summaries())
    assert keys | sections == set(valid_keys())
    assert all(section_summaries().values())


def test_the_defaults_are_those_of_a_recipe_that_sets_nothing(tmp_path):
    (tmp_path / "least.yaml").write_text("data: {train: x.parquet}\n")
    leaves = dict(flatten(load_config(tmp_path / "least.yaml").model_dump(mode="json")))
    for key in config_keys():
        if not key.required and key.key != "name":
            assert json.loads(json.dumps(key.default)) == leaves[key.key], key.key
    assert [key.key for key in config_keys() if key.required] == ["data.train"]


@pytest.mark.parametrize(
    ("key", "type_", "default"),
    [
        ("optimizer.lr", "number > 0", "0.05"),
        ("schedule.warmup", "duration", "0ep"),
        ("train.zero_stage", "auto | 0 | 1 | 2 | 3", "1"),
        ("model.width", "integer > 0 or null", "null"),
        ("model.std", "[number > 0, number > 0, number > 0]", "[0.5, 0.5, 0.5]"),
        ("evaluate.scores", "list of text", "[sure_plus]"),
        ("data.near_ood", "mapping of text", "{}"),
        ("data.train", "text", "(must be set)"),
    ],
)
def test_types_and_defaults_are_said_as_a_recipe_would(key, type_, default):
    (found,) = config_keys(key)
    assert (found.type, found.shown_default) == (type_, default)


def test_a_prefix_is_whole_parts_of_a_key():
    assert [key.key for key in config_keys("model.lora")] == [
        "model.lora.rank",
        "model.lora.alpha",
        "model.lora.targets",
    ]
    with pytest.raises(ConfigError, match=r"keys: unknown key 'averaging.ram', nearest.*'averaging.ramp'"):
        config_keys("averaging.ram")


@pytest.mark.parametrize(
    ("key", "occasions"),
    [
        ("seed", ("incidental",)),
        ("data.train", ("imported",)),
        ("data.near_ood", ("resume", "evaluation")),
        ("train.duration", ("resume", "trial")),
        ("optimizer.lr", ("trial", "population")),
    ],
)
def test_where_a_key_may_change_is_said_as_it_is_enforced(key, occasions):
    assert config_keys(key)[0].may_change == occasions


def test_the_command_prints_them(capsys):
    assert main(["recipes", "keys", "averaging.ramp"]) == 0
    assert "averaging.ramp: 2000.0" in (printed := capsys.readouterr().out)
    assert "updates over which" in printed
    assert main(["recipes", "keys", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(config_keys())
    assert main(["recipes", "keys", "optimzer"]) == 2
