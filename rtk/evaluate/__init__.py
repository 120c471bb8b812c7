"""Predictions, scores, tables and reports of finished runs."""
