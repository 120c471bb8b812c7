"""Every page, table and plot: of one run, of several, of a sweep."""
