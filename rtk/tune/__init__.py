"""Search for hyper-parameters: Optuna proposes, Ray Tune runs, the run folders remember."""
