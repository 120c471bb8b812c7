"""rtk trains image classifiers that know when they are wrong, and proves it."""

__version__ = "0.1.0"
