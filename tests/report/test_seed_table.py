"""Mean and standard deviation over seeds."""

from __future__ import annotations

from rtk.report.seed_table import SeedRow, seed_table

FOUND = [{"accuracy": 0.90, "aurc": 0.02}, {"accuracy": 0.94, "aurc": 0.04}]


def test_the_mean_is_of_the_runs_that_count():
    rows = [SeedRow([str(n)], metrics) for n, metrics in enumerate(FOUND)]
    rows.append(SeedRow(["2"], {"accuracy": 0.1}, counts=False))
    table = seed_table(["seed"], rows, ["accuracy", "aurc"])
    assert table == [
        ["seed", "accuracy %", "AURC ‰"],
        ["0", "90.00", "20.00"],
        ["1", "94.00", "40.00"],
        ["2", "10.00", "–"],
        ["mean ± std", "92.00 ± 2.83", "30.00 ± 14.14"],
    ]
    assert len(seed_table(["seed"], rows[1:], ["accuracy"])) == 3  # of a single one there is none
