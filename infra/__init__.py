"""The outside world: Ray, MLflow and the environment."""
