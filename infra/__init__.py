"""The outside world: Ray, MLflow and the environment."""

from infra.settings import set_keepalive

# Ray reads these variables when it is first imported, and only this package imports it.
set_keepalive()
