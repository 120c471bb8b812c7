"""Folders of runs and sweeps, and what is in them."""
