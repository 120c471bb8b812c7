"""Labels follow the names of classes, never their numbers alone."""

import json

import numpy as np
import pytest

from rtk.config import ConfigError, load_config
from rtk.data.sets.class_names import label_map, labels_hash, with_classes
from rtk.data.sets.dataset import labels, open_dataset, read_rows
from rtk.data.sets.of_run import open_sets, open_training_sets
from rtk.runs.data_record import DataRecord
from rtk.train.initial import check_head

FRUIT = ("apple", "berry", "corn")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (FRUIT, None),
        (("corn", "apple", "berry"), (2, 0, 1)),
        (("berry", "corn"), (1, 2)),
        (("corn",), (2,)),
    ],
)
def test_labels_are_mapped_by_name(names, expected):
    assert label_map(names, FRUIT) == expected


def test_accents_apart_from_their_letters_are_the_same_name():
    assert label_map(("cafe\u0301", "tea"), ("caf\u00e9", "tea")) is None
    assert label_map(("tea", "cafe\u0301"), ("caf\u00e9", "tea")) == (1, 0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("apple", "birch"), "2 classes have other names than the run's: 'birch', and lack 'berry', 'corn'"),
        (("apple", "berry", "corn", "dill"), "4 classes have other names than the run's: 'dill'$"),
        (("0", "1", "2"), "other names than the run's: '0', '1', '2', and lack 'apple', 'berry', 'corn'"),
        (("apple", "apple"), "cannot be told apart by name, 'apple' is there twice"),
        (tuple(f"c{n}" for n in range(10)), "'c6', 'c7' and 2 more, and lack"),
    ],
)
def test_other_names_are_refused_with_the_differences(names, message):
    with pytest.raises(ValueError, match=message):
        label_map(names, FRUIT)


@pytest.fixture
def sets(make_parquet, png):
    """A config whose sets carry names: `sets(test=NAMES)` with a picture a class, a training set of FRUIT."""

    def make(*overrides, **names):
        given = {"train": FRUIT, **names}
        paths = {
            key: make_parquet(
                [png(n) for n in range(3)],
                [n % len(classes or FRUIT) for n in range(3)],
                classes=classes,
                file=f"{key}/all.parquet",
            )
            for key, classes in given.items()
        }
        empty = ["data.near_ood={}", "data.far_ood={}", "data.validation_near_ood={}"]
        given_paths = [f"data.{key}={path}" for key, path in paths.items()]
        rest = ["data.validation_far_ood={}", "data.validation=null", "data.test=null"]
        return load_config("digits_ce", [*empty, *rest, *given_paths, *overrides])

    return make


@pytest.mark.parametrize("key", ["test", "validation"])
def test_every_labelled_set_is_brought_to_the_training_set_s_numbers_and_it_is_said(sets, capsys, key):
    opened = dict(open_sets(sets(**{key: ("corn", "berry")}), ("validation", "test")).items())[key]
    assert labels(opened).tolist() == [2, 1, 2]
    assert [row.label for row in read_rows(opened)] == [2, 1, 2]
    assert opened.classes == FRUIT
    said = f"data.{key}: its classes are only some of the run's: labels are taken by name (2 of 3 classes)"
    assert said in capsys.readouterr().err
    opened = dict(open_sets(sets(**{key: FRUIT}), ("validation", "test")).items())[key]
    assert labels(opened).tolist() == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_sets_of_other_classes_are_refused_before_training_unless_numbers_are_insisted_on(sets, capsys):
    other = ("beech", "oak", "pine")
    with pytest.raises(ConfigError, match=r"data\.test: its 3 classes.*'beech'.*--labels-by number"):
        open_training_sets(sets(test=other))
    opened = open_sets(sets("data.labels_by=number", test=other), ("test",))
    assert labels(opened.test).tolist() == [0, 1, 2]
    assert "data.test: labels are taken by number, although its 3 classes" in capsys.readouterr().err
    opened = open_sets(sets("data.labels_by=number", test=FRUIT[::-1]), ("test",))
    assert labels(opened.test).tolist() == [0, 1, 2]
    assert "in another order" in capsys.readouterr().err


def test_a_set_without_names_goes_by_number_which_is_said_and_checked(sets, make_parquet, png, capsys):
    assert labels(open_sets(sets(test=None), ("test",)).test).tolist() == [0, 1, 2]
    assert "data.test: has no class names (classes.json)" in capsys.readouterr().err
    path = make_parquet([png()], [7], classes=None, file="large/all.parquet")
    with pytest.raises(ConfigError, match=r"data\.test: .*label 7 in row 0 is out of range, there are 3"):
        open_sets(sets(f"data.test={path}"), ("test",))


def test_a_label_without_a_name_is_out_of_range(make_parquet, png, sets):
    path = make_parquet([png()], [2], classes=("corn", "apple"), file="few/all.parquet")
    with pytest.raises(ConfigError, match="label 2 in row 0 is out of range, there are 2 classes"):
        open_sets(sets(f"data.test={path}"), ("test",))


def test_a_run_s_own_names_decide_also_for_its_training_set(sets):
    """As after its images were prepared anew in another order."""
    record = DataRecord(classes=FRUIT)
    opened = open_sets(sets(train=FRUIT[::-1]), (), record)
    assert (labels(opened.train).tolist(), opened.train.classes) == ([2, 1, 0], FRUIT)


def test_runs_read_labels_alike_where_the_names_are_the_same_whatever_their_numbers(make_parquet, png):
    dataset = open_dataset(make_parquet([png()], [0], classes=("berry", "corn")))
    read = lambda classes, by_number: labels_hash(with_classes(dataset, classes, by_number)[0])  # noqa: E731
    assert read(FRUIT, False) == read(FRUIT[::-1], False) == labels_hash(dataset)
    assert read(FRUIT, True) == read(FRUIT, True)
    assert len({read(FRUIT, False), read(FRUIT, True), read(FRUIT[::-1], True)}) == 3


def test_images_are_the_same_whatever_their_labels_are_called(make_parquet, png):
    dataset = open_dataset(make_parquet([png()], [0], classes=("corn",)))
    mapped, _ = with_classes(dataset, FRUIT)
    assert np.array_equal(labels(mapped), [2])
    assert mapped.files == dataset.files


def test_the_head_of_a_run_is_taken_only_for_the_same_classes(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "environment.json").write_text(json.dumps({"classes": FRUIT}))
    config = load_config("digits_ce", [f"model.weights={tmp_path}"])
    check_head(config, FRUIT)
    with pytest.raises(ConfigError, match=r"model\.weights: the head of .* they stand in another order"):
        check_head(config, FRUIT[::-1])
    with pytest.raises(ConfigError, match="'beech', and lack 'apple', 'berry', 'corn'.*head_weights=new"):
        check_head(config, ("beech",))
    for override in ("model.head_weights=new", "data.labels_by=number"):
        check_head(load_config("digits_ce", [f"model.weights={tmp_path}", override]), ("beech",))
