"""Order: scenes, plan, shards, batches, training, evaluation, bundle. No Ray, no MLflow."""
