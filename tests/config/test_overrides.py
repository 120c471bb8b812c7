"""What was typed is what is used, or an error with its key."""

import pytest

from rtk.config import ConfigError, load_config
from rtk.config.load import dump_config, flatten
from rtk.config.overrides import override_text, parse_override


def value_of(config, key):
    return dict(flatten(config.model_dump(mode="json")))[key]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("output=/tmp/exp #3/runs", "/tmp/exp #3/runs"),
        ("output=2026-11-26", "2026-11-26"),
        ("name=2026", "2026"),
        ("name=007", "007"),
        ("name=1e3", "1e3"),
        ("name=no", "no"),
        ("tracking.experiment=1:30", "1:30"),
        ("tracking.experiment=[a, b]", "[a, b]"),
        ("tracking.experiment='2026'", "2026"),
        ("tracking.experiment='it''s'", "it's"),
        ("tracking.experiment='a' and b", "'a' and b"),
        ("tracking.experiment=a=b", "a=b"),
        ("tracking.experiment=*x", "*x"),
        ("data.train=data/a: b/train.parquet", "data/a: b/train.parquet"),
        ("data.train=data/set #1/train.parquet", "data/set #1/train.parquet"),
        ("data.test=null", None),
        ("data.test='null'", "null"),
        ("evaluate.scores=[2026, no, 1e3]", ["2026", "no", "1e3"]),
        ("optimizer.lr=1e-3", 0.001),
        ("optimizer.lr=.5", 0.5),
        ("train.batch_size=010", 10),
        ("train.batch_size=1_0", 10),
        ("train.batch_size=0x10", 16),
        ("data.augment.flip=no", False),
        ("seed=9007199254740993", 9007199254740993),
    ],
)
def test_what_was_typed_is_what_is_used(override, value, tmp_path):
    key = override.partition("=")[0]
    config = load_config("digits_ce", [override])
    assert value_of(config, key) == value
    assert parse_override(override_text(key, value)) == (key, value)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.lr=0.1 # high",
            "override optimizer.lr: got '0.1 # high', of which '# high' is a comment, wanted it left out",
        ),
        ("optimizer.lr=1:30", "optimizer.lr: got '1:30', wanted a number"),
        ("optimizer.lr=2026-11-26", "optimizer.lr: got '2026-11-26', wanted a number"),
        ("optimizer.lr=nan", "optimizer.lr: got 'nan', wanted a finite number"),
        ("optimizer.lr=.inf", "optimizer.lr: got inf, wanted a finite number"),
        ("optimizer.lr=true", "optimizer.lr: got true, wanted a number"),
        ("train.batch_size=yes", "train.batch_size: got true, wanted a number"),
        ("train.zero_stage=true", "train.zero_stage: got true, wanted a number"),
        (
            "seed=9007199254740993.0",
            "seed: got 9007199254740992.0, wanted a whole number, all digits written out",
        ),
        ("sharpness.rho=.nan", "sharpness.rho: got nan, wanted a finite number"),
        ("sharpness.lmbda=5", "sharpness.lmbda: got 5, wanted a number less than 1"),
        ("sharpness.every=1.5", "sharpness.every: got 1.5, wanted a whole number"),
        ("model.mean=[.nan, 0, 0]", "model.mean.0: got nan, wanted a finite number"),
        ("data.max_errors=.inf", "data.max_errors: got inf, wanted a finite number"),
        (
            "train.select=val/acuracy",
            "train.select: got 'val/acuracy', wanted 'val/accuracy', 'val/aurc' or 'val/nll' "
            "(nearest: 'val/accuracy')",
        ),
        ("train.batch_size=0b11", "train.batch_size: got '0b11', wanted a whole number"),
        ("data={train: a, train: b}", "override data: train stands twice, wanted each key once"),
        ("data.near_ood={a: x, a: y}", "override data.near_ood: a stands twice, wanted each key once"),
        ("optimizer.lr=[1", "override optimizer.lr: got '[1', wanted a YAML value"),
        ("lr=0.1", "override 'lr=0.1': unknown key 'lr', nearest valid key is 'optimizer.lr'"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_key(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("digits_ce", [override])
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("overrides", "sets"),
    [
        (["data.near_ood.places365.v2=x.parquet"], {"places365.v2": "x.parquet"}),
        (["data.near_ood.cats+dogs (50%)=x"], {"cats+dogs (50%)": "x"}),
        (["data.near_ood={no: no, 1: 2, 2026-11-26: y}"], {"no": "no", "1": "2", "2026-11-26": "y"}),
        (["data.near_ood.a=x #1", "data.near_ood.a.b=y"], {"a": "x #1", "a.b": "y"}),
    ],
)
def test_sets_have_the_names_and_paths_that_were_typed(overrides, sets, tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {train: x.parquet}\n")
    config = load_config(tmp_path / "mine.yaml", overrides)
    assert config.data.near_ood == sets
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_a_recipe_is_read_as_overrides_are(tmp_path):
    path = tmp_path / "my recipe (2).yaml"
    path.write_text(
        "output: 2026-11-26\n"
        "data:\n  train: no\n  near_ood: {places365.v2: 010, off: 1:30}\n"
        "evaluate: {scores: [on, 1e3]}\noptimizer: {lr: 1e-3}\naveraging.kind: ema\n"
    )
    config = load_config(path)
    assert (config.name, config.output, config.data.train) == ("my-recipe-2", "2026-11-26", "no")
    assert config.data.near_ood == {"places365.v2": "010", "off": "1:30"}
    assert (config.evaluate.scores, config.optimizer.lr) == (("on", "1e3"), 0.001)
    assert config.averaging.kind == "ema"


def test_a_set_is_no_mapping(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {train: x, near_ood: {cats: {path: y}}}\n")
    with pytest.raises(ConfigError, match=r"data.near_ood.cats: got \{path: y\}, wanted text"):
        load_config(tmp_path / "mine.yaml")


def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: digits_ce\nmodel:\n  width: 4\n  name: resnet18\n  width: 8\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value) == f"{path}, line 5: model.width stands in line 3 already, wanted each key once"


def test_anchors_and_merged_keys_are_no_repetition(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: digits_ce\nobjective:\n  regmixup: &mixed {weight: 1, beta: 2}\n"
        "  cutmix: {weight: 0.5}\naveraging: {<<: {kind: ema, decay: 0.5}, decay: 0.9}\n"
    )
    config = load_config(path)
    assert (config.averaging.kind, config.averaging.decay) == ("ema", 0.9)


@pytest.mark.parametrize(
    "text", ["fotos \N{GRINNING FACE} #1", 'it\'s: "x"', " x ", "a\nb", "null", "~", "'", "#"]
)
def test_any_text_can_be_handed_on_as_an_override(text):
    assert parse_override(override_text("output", text)) == ("output", text)
    assert parse_override(override_text("data.near_ood.v.2", text)) == ("data.near_ood.v.2", text)
    assert parse_override(override_text("evaluate.scores", [text])) == ("evaluate.scores", [text])


@pytest.mark.parametrize(
    "value", ["!!timestamp 1", "!!timestamp 2026-99-99", "!!bool x", "!!int x", "!!binary é", "[" * 5000]
)
def test_a_value_that_is_not_what_its_tag_says(value):
    with pytest.raises(ConfigError, match="optimizer.lr: got .*, wanted a YAML value"):
        parse_override(f"optimizer.lr={value}")


def test_what_holds_itself(tmp_path):
    (tmp_path / "r.yaml").write_text("data: &d {train: *d}")
    with pytest.raises(ConfigError, match="data.train is an alias of what it stands in"):
        load_config(tmp_path / "r.yaml", [])
