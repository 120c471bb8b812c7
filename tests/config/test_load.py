import pytest

from rtk.config import ConfigError, duration_steps, load_config, load_with_origins
from rtk.config.load import dump_config, shipped_recipes


def test_defaults_then_recipe_then_overrides():
    loaded = load_with_origins("digits_demo", ["sharpness.rho=0.1"])
    assert loaded.config.sharpness.rho == 0.1
    assert loaded.origins["sharpness.rho"] == "override"
    assert loaded.origins["sharpness.variant"] == "recipe digits_demo"
    assert loaded.origins["model.width"] == "recipe digits_ce"
    assert loaded.origins["optimizer.nesterov"] == "default"


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid_and_survive_a_round_trip(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RTK_DATA", "/data")
    monkeypatch.setenv("RTK_WEIGHTS", "/weights")
    config = load_config(name)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimzer.lr=1", r"unknown key 'optimzer.lr', nearest valid key is 'optimizer.lr'"),
        ("objective.regmixup.wieght=1", r"nearest valid key is 'objective.regmixup.weight'"),
        ("optimizer.lr=fast", r"optimizer.lr: got 'fast', .* number"),
        ("optimizer.lr=-1", r"optimizer.lr: got -1, .* greater than 0"),
        ("train.duration=12", r"train.duration: got '12', wanted a number with its unit"),
        ("train.duration=12h", r"train.duration: got '12h', wanted a number with its unit"),
        ("train.workers=3", r"train.batch_size: got 64, wanted a multiple of train.workers .* \(3\)"),
        ("train.min_workers=3", r"train.min_workers: got 3, wanted at most train.workers \(2\)"),
        (
            "train.workers={min: 3, max: 8}",
            r"train.batch_size: got 64, wanted a multiple of train.min_workers .* \(3\)",
        ),
        (
            "train.workers={least: 3}",
            r"train.workers: got {'least': 3}, wanted a number, or {min: 2, max: 8}",
        ),
        (
            ["train.workers={min: 1, max: 2}", "model.batchnorm=local"],
            r"train.min_workers: got 1 with model.batchnorm local, whose results depend on the number",
        ),
        (
            ["train.min_workers=1", "model.batchnorm=sync", "sharpness.variant=sam", "sharpness.sync=local"],
            r"train.min_workers: got 1 with sharpness.sync local, whose results depend on the number",
        ),
        (
            "train.accumulation=5",
            r"train.batch_size: got 64, wanted a multiple of .*train.accumulation \(10\)",
        ),
        ("sharpness.sync=local", r"sharpness.sync: got local with variant fsam"),
        (["sharpness.sync=local", "sharpness.variant=sam", "train.zero_stage=2"], r"got local, but ZeRO-2"),
        (
            ["sharpness.sync=local", "sharpness.variant=sam", "train.precision=bf16_weights"],
            r"sharpness.sync: got local, .* bf16",
        ),
        (["sharpness.sync=local", "sharpness.variant=esam"], r"variant esam, whose choice is over all"),
        (
            ["sharpness.variant=esam", "sharpness.redraw_views=mixup"],
            r"sharpness.redraw_views: got other views .* esam",
        ),
        (
            ["sharpness.variant=esam", "train.workers=4", "sharpness.share=0.1"],
            r"sharpness.share: got 0.1, 6 of train.batch_size 64, wanted a multiple of .* \(4\)",
        ),
        (["sharpness.variant=esam", "sharpness.share=0.01"], r"sharpness.share: got 0.01, 0 of"),
        ("train.select=val/f1", r"train.select: got 'val/f1', .*'val/accuracy'"),
        ("deepspeed.train_batch_size=3", r"deepspeed.train_batch_size: rtk sets this"),
        ("deepspeed.zero_optimization.stage=3", r"got 3, set train.zero_stage instead"),
        ("deepspeed.zero_optimization=3", r"got 3, wanted a mapping"),
        ("deepspeed.zero_optimization.offload_optimizer.device=cpu", r"offload_optimizer: offloading is not"),
        ("optimizer.lr=.inf", r"optimizer.lr: got inf"),
        ("deepspeed=3", r"deepspeed: got 3"),
        ("objective.regpixmix.severity=20", r"regpixmix.severity: got 20, .* 10"),
        ("optimizer.betas=[1.5, 0.9]", r"optimizer.betas.0: got 1.5"),
        (["optimizer.momentum=0", "optimizer.nesterov=true"], r"optimizer.nesterov: needs"),
        (
            ["averaging.kind=swa", "averaging.every=0ep"],
            r"averaging.every: got '0ep', wanted at least one step",
        ),
        ("model.std=[0, 1, 1]", r"model.std.0: got 0"),
        ("name=a/b", r"name: got 'a/b'"),
        ("data.near_ood={../evil: x}", r"got '../evil', wanted a name without / and"),
        ("data.validation_far_ood={.hidden: x}", r"got '.hidden', wanted a name .* no dot in front"),
        ("seed", r"wanted key=value"),
        ("data.train=${NOWHERE}/x", r"data.train: .* needs the environment variable NOWHERE"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("digits_demo", override if isinstance(override, list) else [override])


def test_rat_needs_the_clean_term_or_mixup():
    overrides = ["objective.rat.weight=1", "objective.cross_entropy.weight=0"]
    assert load_config("digits_demo", overrides).objective.rat.weight == 1
    overrides += ["objective.regmixup.weight=0", "objective.regpixmix.weight=1"]
    with pytest.raises(ConfigError, match=r"^objective.rat.weight: needs objective.cross_entropy.weight"):
        load_config("digits_demo", overrides)


def test_all_weights_zero_is_refused():
    terms = [f"objective.{name}.weight=0" for name in ("cross_entropy", "regmixup", "regpixmix")]
    with pytest.raises(ConfigError, match="wanted at least one positive weight"):
        load_config("digits_demo", terms)


def test_misspelt_key_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: digits_ce\nmodel: {widht: 4}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: unknown key 'model.widht', nearest .*'model.width'"):
        load_config(path)


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="mine.yaml"):
        load_config(path)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine.yaml: not"):
        load_config(path)


@pytest.mark.parametrize("base", ["one", "two", "[1]"])
def test_a_base_that_cannot_be(tmp_path, base):
    (tmp_path / "one.yaml").write_text(f"base: {base}\n")
    (tmp_path / "two.yaml").write_text("base: one\n")
    with pytest.raises(
        ConfigError, match="base: a recipe cannot be its own base|base: got|recipe: got 'one'"
    ):
        load_config(tmp_path / "one.yaml")


def test_a_recipe_may_have_the_name_of_its_shipped_base(tmp_path):
    path = tmp_path / "digits_demo.yaml"
    path.write_text("base: digits_demo\nmodel: {width: 4}\n")
    config = load_config(path)
    assert (config.model.width, config.sharpness.variant) == (4, "fsam")


def test_numbers_in_scientific_notation():
    config = load_config(
        "digits_ce", ["optimizer.lr=1e-2", "deepspeed.zero_optimization.reduce_bucket_size=5e8"]
    )
    assert config.optimizer.lr == 0.01
    assert config.deepspeed["zero_optimization"]["reduce_bucket_size"] == 5e8


def test_words_that_look_like_numbers_survive_a_round_trip(tmp_path):
    (tmp_path / "1e5.yaml").write_text("base: digits_ce\ntracking: {experiment: '3e45678'}\n")
    overrides = ["data.far_ood={'1e3': x}"]
    config = load_config(tmp_path / "1e5.yaml", overrides)
    assert (config.name, config.tracking.experiment, list(config.data.far_ood)) == ("1e5", "3e45678", ["1e3"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_variables_that_are_not_set_are_kept_where_no_file_is_read(monkeypatch):
    monkeypatch.delenv("RTK_DATA", raising=False)
    config = load_with_origins("resnet18_cifar100_ce", keep_unset=True).config
    assert config.data.train.startswith("${RTK_DATA}/")


def test_missing_recipe_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"got 'nope', wanted .*digits_demo"):
        load_config("nope")


def test_ood_sets_take_any_name():
    config = load_config("digits_ce", ["data.far_ood.noise=/data/noise"])
    assert config.data.far_ood == {"photos": "builtin:digits/far_photos.parquet", "noise": "/data/noise"}


def test_duration_in_steps_and_epochs():
    assert duration_steps("3ep", 10) == 30
    assert duration_steps("7steps", 10) == 7
    with pytest.raises(ValueError, match="duration"):
        duration_steps("7", 10)


def test_numbers_of_workers_that_cut_a_batch_evenly():
    config = load_config(
        "digits_demo", ["train.workers={min: 2, max: 16}", "train.accumulation=2", "model.batchnorm=sync"]
    )
    assert (config.train.min_workers, config.train.workers) == (2, 16)
    assert config.worker_counts == [2, 4, 8, 16]
    assert load_config("digits_demo").worker_counts == [2]
