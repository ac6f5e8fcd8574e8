"""Which environment variables mean something, asked of those who read them."""

from __future__ import annotations

import ast
import functools
import inspect

import mlflow.environment_variables
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.credentials import EnvProvider

import infra.settings

# Documented by the images that read them.
_OF_IMAGES = {
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"},
    "minio/minio": {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_BROWSER", "MC_HOST_store"},
}


@functools.cache
def read_by_settings() -> frozenset[str]:
    """The names in infra/settings.py that are looked up in the environment."""
    tree = ast.parse(inspect.getsource(infra.settings))
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.isupper()
        and "_" in node.value
        and " " not in node.value
    )


def check_variable(name: str, *, image: str) -> None:
    """Fail when nobody in a container of `image` reads the variable."""
    if not image.startswith("fusion:"):
        assert name in _OF_IMAGES[image.partition(":")[0]], name
        return
    botocore = {
        variable
        for _, variables, *_ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values()
        for variable in ([variables] if isinstance(variables, str) else variables or ())
    } | {EnvProvider.ACCESS_KEY, EnvProvider.SECRET_KEY}
    read = read_by_settings() | botocore | set(dir(mlflow.environment_variables))
    # An option of `mlflow server`, which click reads; and what Ray's C++ reads.
    others = {"MLFLOW_BACKEND_STORE_URI", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    assert name in read | others, f"{name}: nobody reads it"
