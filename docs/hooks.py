"""What MkDocs does to each page: fill in the tables that are read from rtk itself, so that none can go stale.

A page says `<!-- from rtk: keys -->` where a table belongs.
"""

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from rtk.cli import build_parser
from rtk.config.changes import When, changing_keys
from rtk.config.keys import Key, config_keys, keys_of, section_summaries
from rtk.config.load import shipped_recipes
from rtk.config.search_space import Parameter, SearchSpace

ROOT = Path(__file__).parent.parent
MARKER = re.compile(r"^<!-- from rtk: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace every marker by what it names."""
    return MARKER.sub(lambda match: "\n".join(TABLES[match[1]]()), markdown)


def keys() -> Iterator[str]:
    """Every config key, a heading a section, so that each section and key has an address."""
    summaries = section_summaries()
    yield from _key_table([key for key in config_keys() if "." not in key.key])
    for section, summary in summaries.items():
        own = [key for key in config_keys(section) if key.key.rpartition(".")[0] == section]
        yield from [
            "",
            f"{'##' if '.' not in section else '###'} {section}",
            "",
            inspect.cleandoc(summary),
            "",
        ]
        yield from _key_table(own)


def _key_table(rows: list[Key]) -> Iterator[str]:
    if not rows:
        return
    yield from ["", "| key | type | default | meaning | may change |", "|---|---|---|---|---|"]
    for key in rows:
        name = f'<span id="{key.key}"></span>`{key.key}`'
        yield _row(name, key.type, f"`{key.shown_default}`", key.description, ", ".join(key.may_change))


def resume_keys() -> Iterator[str]:
    """Keys that may change when a run goes on."""
    yield _listed(When.RESUME)


def evaluation_keys() -> Iterator[str]:
    """Keys that an evaluation may set."""
    yield _listed(When.EVALUATION)


def _listed(when: When) -> str:
    return ", ".join(f"`{key}`" for key in changing_keys(when))


def search_space() -> Iterator[str]:
    """The keys of a search space, and the distributions."""
    yield from _plain_table(keys_of(SearchSpace))
    yield from ["", "## Distributions", "", inspect.cleandoc(Parameter.__doc__ or "")]
    yield from _plain_table(keys_of(Parameter))


def _plain_table(rows: list[Key]) -> Iterator[str]:
    yield from ["", "| key | type | default | meaning |", "|---|---|---|---|"]
    yield from (_row(f"`{key.key}`", key.type, f"`{key.shown_default}`", key.description) for key in rows)


def scores() -> Iterator[str]:
    """Every score: what it reads, what it is, its hyper-parameters, its source."""
    from rtk.scores import DEFAULT_SCORES, SCORES

    yield from ["| score | reads | what it is | hyper-parameters | source |", "|---|---|---|---|---|"]
    for name, score in sorted(SCORES.items()):
        what = inspect.getdoc(score.score) or ""
        given = ", ".join(f"`{key}={value}`" for key, value in score.defaults.items())
        star = " *" if name in DEFAULT_SCORES else ""
        yield _row(f"`{name}`{star}", score.inputs, what.split("\n\n")[0], given, score.source)


def recipes() -> Iterator[str]:
    """Every shipped recipe, as `rtk recipes cat` prints it."""
    for name, path in shipped_recipes().items():
        yield from ["", f"## {name}", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```"]


def commands() -> Iterator[str]:
    """The help of every command."""
    parser = build_parser()
    yield from _help(parser)
    for name, command in _leaves(parser):
        yield from ["", f"## {name}", "", *_help(command)]


def _help(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What `--help` prints, whatever the width of the terminal that the site is built in."""
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    yield from ["```", parser.format_help().rstrip(), "```"]


def _leaves(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                deeper = list(_leaves(command))
                yield from deeper or [(command.prog, command)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def gauges() -> Iterator[str]:
    """What Prometheus is offered."""
    from rtk.train.gauges import OF_RANK, OF_RUN, OF_TERM, description

    yield from ["| metric | labels | what it is |", "|---|---|---|"]
    for names, labels in ((OF_RUN, "run"), (OF_TERM, "run, term"), (OF_RANK, "run, rank")):
        yield from (_row(f"`ray_{name}`", labels, description(name)) for name in names)


TABLES = {
    "commands": commands,
    "evaluation_keys": evaluation_keys,
    "gauges": gauges,
    "keys": keys,
    "recipes": recipes,
    "resume_keys": resume_keys,
    "scores": scores,
    "search_space": search_space,
}
