"""Backbones, heads and the classifier that joins them."""

from rtk.models.classifier import Classifier, build_model

__all__ = ["Classifier", "build_model"]
