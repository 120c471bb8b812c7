"""`rtk serve`: a packaged model behind HTTP, its images joined into batches and its decisions counted."""
