"""Typed run configuration: recipes, overrides, validation."""

from rtk.config.errors import ConfigError
from rtk.config.load import dump_config, load_config, load_with_origins
from rtk.config.plugins import load_built_in
from rtk.config.schema import RunConfig
from rtk.config.sections import duration_steps

__all__ = ["ConfigError", "RunConfig", "dump_config", "duration_steps", "load_config", "load_with_origins"]

load_built_in()
