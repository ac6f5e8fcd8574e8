"""The outside world: Ray, MLflow and the environment."""

import os

# A connection on which no answer comes any more looks like a long task. Ray asks after 5 minutes, and
# waits 2 more, before it takes the other host for unreachable; here, after half a minute and 20 s. Ray
# reads this when it is first imported, so before any module of this package imports it.
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}
for _name, _value in KEEPALIVE.items():
    os.environ.setdefault(_name, _value)
