"""MLflow: tracking, model versions, leases."""
