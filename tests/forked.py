"""What multiprocessing's fork server imports once, so that ranks and writers of tests start at once."""

import gc

import mlflow  # noqa: F401
import timm  # noqa: F401

import rtk.train.worker  # noqa: F401
from rtk.train.engine import import_deepspeed

import_deepspeed()
gc.freeze()  # what is here by now is left out of the collections that DeepSpeed forces for every engine
