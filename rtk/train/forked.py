"""What a fork server imports for the workers of training: all that they do, and what Ray Train imports."""

import pandas  # noqa: F401

import rtk.train.worker  # noqa: F401
from rtk.train.engine import import_deepspeed

import_deepspeed()
