"""What everything runs on: the Ray session, ranks, the environment, the console."""
