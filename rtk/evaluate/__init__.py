"""Predictions, scores and tables of finished runs. Called, it is `rtk.api.evaluate`."""

from rtk.runtime.callable_module import make_callable

make_callable(__name__)
