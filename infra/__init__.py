"""The outside world: Ray, MLflow and the environment."""

from infra.settings import look_after_connections

# Ray reads this when it is first imported, and only this package imports it.
look_after_connections()
