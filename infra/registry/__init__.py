"""MLflow: runs (tracking, report_log), the model registry (model_versions, fuser_model), leases."""
