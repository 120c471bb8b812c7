"""Backbones, heads and the classifier that joins them."""

from rtk.models.build import Classifier, build_model

__all__ = ["Classifier", "build_model"]
