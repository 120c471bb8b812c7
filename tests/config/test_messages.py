"""Values that do not fit are answered in rtk's words: the key, what was got, what was wanted."""

from __future__ import annotations

import re

import pytest

from rtk.config import ConfigError, load_config
from rtk.config.keys import section_summaries
from rtk.config.load import override_config, valid_keys
from rtk.config.search_space import parse_space

# What pydantic would say.
FOREIGN = re.compile(
    r"Input should|valid (dictionary|string|integer|number|boolean|tuple|list)|type=|Field required"
    r"|Extra inputs|after validation|Tuple|Dictionary|Keys should|Value error|unable to"
    r"|instance of|literal|pydantic|Config\b"
)
WRONG = [
    None,
    True,
    -1e9,
    1.5,
    float("nan"),
    "nonsense",
    [],
    [1],
    ["a", None],
    [[1], [2], [3]],
    {},
    {"a": 1},
    {3: 4},
]
SPACE = {"objectives": {"val/aurc": "min"}, "space": {"optimizer.lr": {"uniform": [0.1, 1.0]}}}


def refusal(function, *arguments):
    """The message with which a function refuses its arguments; empty where it takes them."""
    try:
        function(*arguments)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", valid_keys())
def test_every_key_answers_wrong_values_in_rtks_words(key):
    config = load_config("digits_ce")
    messages = list(filter(None, (refusal(override_config, config, {key: value}) for value in WRONG)))
    assert messages
    for message in messages:
        assert not FOREIGN.search(message), message
        assert key in message or key.rpartition(".")[0] in message  # or the other key of a pair
        assert "\n" not in message


@pytest.mark.parametrize(
    "key",
    [
        *SPACE,
        "trials",
        "concurrent",
        "max_restarts",
        "scheduler",
        "sampler",
        "resources",
        "fixed",
        "warm_starts",
    ]
    + ["scheduler.name", "scheduler.quantile", "sampler.seed", "resources.gpu", "space.x", "space.x.when.y"]
    + [f"space.x.{kind}" for kind in ("uniform", "loguniform", "quniform", "randint", "choice", "when")],
)
def test_search_spaces_too(key):
    messages = []
    for value in WRONG:
        tree = {name: dict(own) for name, own in SPACE.items()}
        place = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
        messages.append(refusal(parse_space, tree, "mine.yaml"))
    assert any(messages)
    for message in filter(None, messages):
        assert not FOREIGN.search(message), message
        assert message.startswith("mine.yaml: ")
        assert ".".join(key.split(".")[:2]) in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("averaging=ema", "averaging: got 'ema', wanted a mapping of keys such as averaging.kind=ema"),
        ("averaging=3", "averaging: got 3, wanted a mapping of keys such as averaging.kind=none"),
        ("data=null", "data: got null, wanted a mapping of keys such as data.train=..."),
        ("data={}", "data.train: missing, wanted a value (set it in the recipe or as data.train=...)"),
        ("averaging={kindd: ema}", "unknown key 'averaging.kindd', nearest valid key is 'averaging.kind'"),
        ("evaluate.scores=all", "evaluate.scores: got 'all', wanted a list such as evaluate.scores=[all]"),
        ("evaluate.scores=3", "evaluate.scores: got 3, wanted a list such as evaluate.scores=[sure_plus]"),
        (
            "evaluate.scores.knn=3",
            "evaluate.scores.knn: got 3, wanted a number or word for each hyper-parameter, such as {k: 20}",
        ),
        (
            "data.augment.crop_scale=[0.5]",
            "data.augment.crop_scale: got [0.5], wanted a list of 2 values such as "
            "data.augment.crop_scale=[0.08, 1.0]",
        ),
        ("train.batch_size=abc", "train.batch_size: got 'abc', wanted a whole number"),
        ("optimizer.name=adam", "optimizer.name: got 'adam', wanted 'sgd' or 'adamw'"),
        ("optimizer.lr=0", "optimizer.lr: got 0, wanted a number greater than 0"),
        (
            "train.concatenate_views=yess",
            "train.concatenate_views: got 'yess', wanted 'auto' or true or false",
        ),
        ("data.near_ood=cats", "data.near_ood: got 'cats', wanted a mapping such as data.near_ood.NAME=..."),
        (
            "data.augment.crop_scale=[0.9, 0.1]",
            "data.augment.crop_scale: got (0.9, 0.1), wanted 0 < low <= high <= 1",
        ),
        (
            "crop_scale=[0.5]",
            "override 'crop_scale=[0.5]': unknown key 'crop_scale', nearest valid key is "
            "'data.augment.crop_scale'",
        ),
    ],
)
def test_the_answer_names_a_key_and_a_value_that_fit(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("digits_ce", [override])
    assert str(error.value) == message


def test_a_recipe_is_answered_as_an_override_is(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: digits_ce\naveraging: ema\n")
    with pytest.raises(ConfigError, match=r"^averaging: got 'ema', wanted .* averaging.kind=ema$"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "nearest"), [("digit_demo", "digits_demo"), ("resnet18_cifar_ce", "resnet18_cifar100_ce")]
)
def test_a_misspelt_recipe_names_the_nearest(name, nearest):
    with pytest.raises(
        ConfigError, match=rf"got '{name}', wanted a YAML file or one of .* \(nearest: {nearest}\)"
    ):
        load_config(name)


@pytest.mark.parametrize("section", section_summaries())
def test_examples_of_sections_are_valid_keys(section):
    message = refusal(load_config, "digits_ce", [f"{section}=3"])
    assert re.search(r"such as ([\w.]+)=", message).group(1) in valid_keys()
