"""The name that models logged in MLflow by rtk 0.1 hold as their loader."""

from rtk.deploy.packaged_model import PackagedModel, _load_pyfunc

__all__ = ["PackagedModel", "_load_pyfunc"]
