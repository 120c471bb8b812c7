"""A set of images on disk."""
