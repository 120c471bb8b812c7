"""The commands of `rtk`, one file each: `add` puts its parser into the command line, `run` does it.

What a command calls is imported when it runs, so that `rtk --help` answers at once.
"""
