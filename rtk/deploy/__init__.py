"""From a run to a packaged model, and its use."""
