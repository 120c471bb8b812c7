"""Runs, sweeps and experiments set side by side: a table, a page, and whether a difference is one."""
