"""The page of `study.py`: tables with intervals, a figure and costs, made of its rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from study_plan import LEFT_OUT, METHODS, MOST_TEST, PARTS, SEEDS, word

from rtk.metrics.bootstrap import bootstrap_difference
from rtk.report.plot_style import COLOURS, STYLE

Rows = Sequence[Mapping[str, Any]]
BASELINE = "CE"
METRICS = {  # heading: key, factor, whether more is better
    "accuracy %": ("accuracy", 100, True),
    "AURC ‰": ("aurc", 1000, False),
    "AUROC near %": ("auroc_near", 100, True),
    "AUROC far %": ("auroc_far", 100, True),
    "DS-F1 near %": ("ds_f1_near", 100, True),
    "DS-F1 far %": ("ds_f1_far", 100, True),
    "DS-AURC near ‰": ("ds_aurc_near", 1000, False),
    "DS-AURC far ‰": ("ds_aurc_far", 1000, False),
}
METHOD_OF_THE_STUDY = (
    "Of each of six methods the learning rate and one strength of its own were searched by `rtk sweep` "
    "(random values, the same number of trials for each, AURC of validation images alone), then it was "
    "trained with each seed. Mean ± standard deviation over seeds; near- and far-OOD figures are means over "
    "the sets of a group, with kNN as the OOD score and the MSP as the confidence, chosen before anything "
    "was measured. Differences from CE are paired by seed, with 95 % bootstrap intervals, which so few seeds "
    "make rough: where 0 lies inside, nothing is shown."
)
SHOWN_SCORE = "ds_aurc_near"  # of every recommended score, in the second table


def write_study_page(rows: Rows, tuned: Mapping[str, Mapping[str, Any]], page: Path) -> Path:
    """Write the page, and a figure for each part beside it.

    Args:
        rows: `part`, `method`, `seed`, `summary`, `scores`, `seconds` of every finished run.
        tuned: `values` and `seconds` of every sweep, by `PART-METHOD`.
        page: Markdown file; figures are `study_PART.svg` in its folder's `images`.
    """
    parts = [name for name in PARTS if any(row["part"] == name for row in rows)]
    page.parent.mkdir(parents=True, exist_ok=True)
    for name in parts:
        figure = page.parent / "images" / f"study_{name}.svg"
        figure.parent.mkdir(exist_ok=True)
        draw_part(of_part(rows, name)).savefig(figure, metadata={"Date": None})
    text = "\n".join(
        [*heading(rows, tuned), *(line for name in parts for line in part_section(name, rows, tuned))]
    )
    page.write_text(text + "\n", encoding="utf-8")
    return page


def of_part(rows: Rows, name: str) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of a part by method, in the order of the methods, by seed."""
    own = sorted((row for row in rows if row["part"] == name), key=lambda row: row["seed"])
    found = {method: [row for row in own if row["method"] == method] for method in METHODS}
    return {method: runs for method, runs in found.items() if runs}


def heading(rows: Rows, tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What was done, and how long it took."""
    hours = (sum(row["seconds"] for row in rows) + sum(each["seconds"] for each in tuned.values())) / 3600
    yield "# A study on photographs"
    yield ""
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    done = f"{len(rows)} of {len(PARTS) * len(METHODS) * SEEDS} runs, {hours:.1f} hours with the sweeps"
    yield f"`python benchmarks/study.py`: {done}, on {machines}. {METHOD_OF_THE_STUDY}"
    yield ""


def part_section(name: str, rows: Rows, tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Tables of a part."""
    part, runs = PARTS[name], of_part(rows, name)
    yield from [f"## {part.title}", "", f"Cut: {part.cut}; at most {MOST_TEST} images of each test set.", ""]
    yield from [*means(runs), "", *gains(runs), "", verdict(runs), ""]
    yield from [f"![Every method's metrics, a point for each seed](images/study_{name}.svg)", ""]
    yield from [*every_score(runs), "", *costs(name, runs, tuned), ""]


def means(runs: Mapping[str, Rows]) -> Iterator[str]:
    """Mean and standard deviation of every metric; how many seeds there are."""
    yield f"| method | seeds | {' | '.join(METRICS)} |"
    yield "|---" + "|---:" * (len(METRICS) + 1) + "|"
    for method, own in runs.items():
        cells = [spread(values_of(own, title)) for title in METRICS]
        yield f"| {method} | {len(own)} | {' | '.join(cells)} |"


def values_of(runs: Rows, title: str) -> list[float]:
    """A metric of the runs that have it, in its heading's unit."""
    key, factor, _ = METRICS[title]
    return [factor * row["summary"][key] for row in runs if key in row["summary"]]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def difference(runs: Mapping[str, Rows], method: str, key: str) -> tuple[float, float, float] | None:
    """A method's metric less the baseline's over the seeds of both, with the ends of its interval."""
    first, second = (
        {row["seed"]: row["summary"][key] for row in runs.get(each, ()) if key in row["summary"]}
        for each in (BASELINE, method)
    )
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    pair = [[(np.array([side[seed] for seed in seeds]),)] for side in (first, second)]
    found = bootstrap_difference(np.mean, *pair, resamples=5000)
    return found.estimate, found.low, found.high


def gains(runs: Mapping[str, Rows]) -> Iterator[str]:
    """Differences from the baseline with their intervals; those that exclude 0 in bold."""
    yield f"| less {BASELINE} | {' | '.join(METRICS)} |"
    yield "|---" + "|---:" * len(METRICS) + "|"
    for method in runs:
        if method == BASELINE:
            continue
        cells = []
        for key, factor, _ in METRICS.values():
            found = difference(runs, method, key)
            shown = (
                "–" if found is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(factor * x for x in found))
            )
            cells.append(f"**{shown}**" if found is not None and (found[1] > 0 or found[2] < 0) else shown)
        yield f"| {method} | {' | '.join(cells)} |"


def verdict(runs: Mapping[str, Rows]) -> str:
    """What is better and what is worse than the baseline beyond its interval; both are said."""
    better, worse = [], []
    for method in runs:
        for title, (key, _, more) in METRICS.items():
            found = None if method == BASELINE else difference(runs, method, key)
            if found is not None and (found[1] > 0 or found[2] < 0):
                (better if (found[0] > 0) == more else worse).append(
                    f"{method} in {title.rpartition(' ')[0]}"
                )
    sides = (("Better", better), ("Worse", worse))
    said = [f"{side}: {', '.join(found) if found else 'nothing'}" for side, found in sides]
    return f"Beyond the interval, compared with {BASELINE}. {'. '.join(said)}."


def every_score(runs: Mapping[str, Rows]) -> Iterator[str]:
    """DS-AURC near of every score that was compared."""
    names = list(next(iter(runs.values()))[0]["scores"])
    yield f"DS-AURC near ‰ with each recommended score (but {LEFT_OUT}) as the OOD score, mean over seeds:"
    yield ""
    yield f"| method | {' | '.join(names)} |"
    yield "|---" + "|---:" * len(names) + "|"
    for method, own in runs.items():
        values = [[row["scores"].get(name, {}).get(SHOWN_SCORE) for row in own] for name in names]
        cells = ["–" if None in each else f"{1000 * np.mean(each):.1f}" for each in values]
        yield f"| {method} | {' | '.join(cells)} |"


def costs(name: str, runs: Mapping[str, Rows], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Time of a method's quickest run, as other work may have run beside some; the values of its sweep."""
    yield "| method | training s (quickest seed) | with evaluation s | beside CE | sweep s | values chosen |"
    yield "|---|---:|---:|---:|---:|---|"
    plain = min((row["training_seconds"] for row in runs.get(BASELINE, ())), default=float("nan"))
    for method, own in runs.items():
        training, whole = (min(row[key] for row in own) for key in ("training_seconds", "seconds"))
        swept = next((each for key, each in tuned.items() if key == f"{name}-{word(method)}"), None)
        values = ", ".join(f"{key.rpartition('.')[2]} {value:.3g}" for key, value in own[0]["values"].items())
        yield (
            f"| {method} | {training:.0f} | {whole:.0f} | {training / plain:.1f} | "
            f"{swept['seconds'] if swept else float('nan'):.0f} | {values} |"
        )


def draw_part(runs: Mapping[str, Rows]) -> Figure:
    """A panel for each of four metrics: a point for each seed, a bar for the mean."""
    import matplotlib

    keys = ("accuracy %", "AURC ‰", "DS-AURC near ‰", "DS-AURC far ‰")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2))
        for place, title in enumerate(keys):
            axes = figure.add_subplot(1, len(keys), place + 1)
            for number, own in enumerate(runs.values()):
                values = values_of(own, title)
                axes.plot(values, [number] * len(values), "o", color=COLOURS[number], alpha=0.6)
                middle = [np.mean(values)] if values else []
                axes.plot(middle, [number] * len(middle), "|", color=COLOURS[number], markersize=18)
            axes.set_yticks(range(len(runs)), list(runs) if place == 0 else [""] * len(runs))
            axes.set_title(title)
            axes.invert_yaxis()
        figure.tight_layout()
    return figure
