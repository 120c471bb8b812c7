"""Distributed training: launch, worker, engine, checkpoints. Called, it is `rtk.api.train`."""

from rtk.runtime.callable_module import make_callable

make_callable(__name__)
