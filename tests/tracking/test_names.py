"""What users call their sets and recipes, in MLflow."""

from __future__ import annotations

import itertools

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_model_name

from rtk.tracking.names import LONGEST_NAME, mlflow_key, mlflow_model, sqlite_uri


def is_allowed(check, name: str) -> bool:
    try:
        check(name)
    except MlflowException:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("test/auroc/knn/cats+dogs (50%)", "test/auroc/knn/cats_x2b_dogs _x28_50_x25__x29_"),
        ("test/auroc/knn/é", "test/auroc/knn/é"),
        ("e\N{COMBINING ACUTE ACCENT}", "e_x301_"),
        ("../a//b/", "_x2e_./a/_x2f_b_x2f_"),
        ("_x2b_", "_x5f_x2b_"),
        ("", "_x_"),
    ],
)
def test_names_stay_readable(name, sent):
    assert mlflow_key(name) == sent
    assert is_allowed(_validate_metric_name, sent)


@pytest.mark.parametrize(
    ("mapped", "check"), [(mlflow_key, _validate_metric_name), (mlflow_model, _validate_model_name)]
)
def test_every_name_is_allowed_and_no_two_become_the_same(mapped, check):
    names = [
        "".join(characters)
        for length in range(5)
        for characters in itertools.product("_x2+./ ", repeat=length)
    ]
    sent = [mapped(name) for name in names]
    assert len(set(sent)) == len(names)
    assert all(is_allowed(check, name) for name in sent)
    plain = [name for name in names if is_allowed(check, name) and "_x" not in name]
    assert len(plain) > 150
    assert [mapped(name) for name in plain] == plain


def test_long_names_end_in_a_hash():
    one, two = (mlflow_key("test/auroc/knn/" + 400 * "b" + end) for end in "12")
    assert len(one) == len(two) == LONGEST_NAME
    assert one != two


@pytest.mark.parametrize("name", ["plain", "with blank", "50%41", "what?", "café+#1"])
def test_sqlite_opens_the_file_of_the_path(tmp_path, name):
    from sqlalchemy import create_engine

    folder = tmp_path / name
    folder.mkdir()
    engine = create_engine(sqlite_uri(folder / "mlflow.db"))
    with engine.connect():
        pass
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
