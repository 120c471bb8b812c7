"""The table of every score of every image."""

from __future__ import annotations

import numpy as np
import pytest

from rtk.evaluate.score_table import score_table
from rtk.scores import fit_score


def test_a_score_that_is_not_a_number_is_named():
    columns = {"logits": np.eye(3, dtype=np.float32), "features": np.eye(3, dtype=np.float32)}
    ids = {name: np.arange(3) for name in ("sample_id", "label", "prediction")}
    broken = {"rr_fast": np.array([0.5, np.nan, 0.25], np.float32)}
    with pytest.raises(ValueError, match=r"score rr_fast: got NaN for 1 of 3 images of 'test'"):
        score_table({"test": columns | ids | broken}, {"rr_fast": fit_score("rr_fast")}, {})
