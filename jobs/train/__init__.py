"""python -m jobs.train: train a stage with Ray Train, tracked in MLflow."""
