"""Distribution, persistence and the command line: Ray, MLflow, checkpoints, configuration."""
