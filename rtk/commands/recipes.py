"""`rtk recipes`: list, show, copy and check recipes, and explain their keys."""

from __future__ import annotations

import shutil
from pathlib import Path

from rtk.commands.output import print_json, warn_of_kept_sets
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk recipes`."""
    recipes = commands.add_parser("recipes", help="list, show, copy and check recipes; explain their keys")
    actions = recipes.add_subparsers(dest="recipes_command", metavar="ACTION", required=True)
    add_json(add_command(actions, "ls", ls, "list the shipped recipes", "rtk recipes ls"))
    add_command(actions, "cat", cat, "print a recipe", "rtk recipes cat digits_demo").add_argument("recipe")
    copy = add_command(actions, "cp", cp, "copy a recipe to edit it", "rtk recipes cp digits_demo mine.yaml")
    copy.add_argument("recipe")
    copy.add_argument("target")
    check = add_command(
        actions,
        "validate",
        validate,
        "check a recipe against the schema, without starting anything",
        """rtk recipes validate mine.yaml
        rtk recipes validate digits_demo optimizer.lr=0.1""",
    )
    check.add_argument("recipe")
    check.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    keys_parser = add_command(
        actions,
        "keys",
        keys,
        "explain config keys: type, default, meaning, and where each may change",
        """rtk recipes keys averaging
        rtk recipes keys optimizer.lr
        rtk recipes keys --json""",
    )
    keys_parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="default: all keys")
    add_json(keys_parser)


def ls(options: Options) -> int:
    """`rtk recipes ls`."""
    from rtk.config.load import shipped_recipes

    summaries = {name: _first_comment(path) for name, path in shipped_recipes().items()}
    if options.json:
        print_json(summaries)
        return 0
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:<{width}}  {summary}")
    return 0


def cat(options: Options) -> int:
    """`rtk recipes cat`."""
    from rtk.config.load import find_recipe

    print(find_recipe(options.recipe).read_text(encoding="utf-8"), end="")
    return 0


def cp(options: Options) -> int:
    """`rtk recipes cp`."""
    from rtk.config.errors import ConfigError
    from rtk.config.load import find_recipe

    target = Path(options.target)
    if target.exists():
        raise ConfigError(f"target: {options.target} exists already")
    shutil.copyfile(find_recipe(options.recipe), target)
    print(f"edit {target}, then: rtk train {target}")
    return 0


def validate(options: Options) -> int:
    """`rtk recipes validate`."""
    from rtk.config.load import load_with_origins
    from rtk.scores.selection import wanted_scores

    loaded = load_with_origins(options.recipe, options.overrides)
    wanted_scores(loaded.config.evaluate, loaded.config.model.name)
    warn_of_kept_sets(loaded)
    own = sum(origin != "default" for origin in loaded.origins.values())
    print(f"valid: {options.recipe} ({own} values set, {len(loaded.origins) - own} defaults)")
    return 0


def keys(options: Options) -> int:
    """`rtk recipes keys`."""
    from rtk.config.keys import config_keys

    found = config_keys(options.prefix)
    if options.json:
        print_json(
            {key.key: {name: value for name, value in vars(key).items() if name != "key"} for key in found}
        )
        return 0
    for key in found:
        print(f"{key.key}: {key.shown_default}    # {key.type}\n    {key.description}")
        if key.may_change:
            print(f"    may change: {', '.join(key.may_change)}")
    return 0


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
