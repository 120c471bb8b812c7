"""MLflow's copy of runs and sweeps."""
