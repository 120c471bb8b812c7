"""Encoded images -> arrays, by Ray Data."""
