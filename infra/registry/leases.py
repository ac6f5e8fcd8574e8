"""Leases: mutual exclusion between all processes that share an MLflow store.

A lease is a registered model. Names are unique in the store, so creating a model is the compare-and-set
that tags and aliases lack. Its tags name the holder.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

# The names of all leases end in it; those of models do not.
SUFFIX = "-lock"


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds while its `token` is in the registry."""

    client: MlflowClient
    name: str
    token: str

    def is_held(self) -> bool:
        """Whether no other process took it."""
        held = read_lease(self.client, self.name)
        return held is not None and held.tags.get("token") == self.token

    def release(self) -> None:
        """Delete it, if this process still holds it."""
        if self.is_held():
            delete_lease(self.client, self.name)


def create_lease(
    client: MlflowClient,
    name: str,
    tags: Mapping[str, str],
    *,
    description: str,
    token: str | None = None,
) -> Lease | RegisteredModel:
    """Acquire a lease, with `token` or a random one; return the holder's model where it is held.

    Raises ValueError when neither works: the holder released it meanwhile, or the store refuses.
    """
    assert name.endswith(SUFFIX)
    token = token or uuid.uuid4().hex
    try:
        client.create_registered_model(name, tags={**tags, "token": token}, description=description)
    except MlflowException as error:
        held = read_lease(client, name)
        if held is None:
            raise ValueError(f"{name!r} could not be taken ({error.message}); try again") from error
        # A request whose answer was lost is retried, and then finds our own lease.
        if held.tags.get("token") != token:
            return held
    return Lease(client, name, token)


def age_s(held: RegisteredModel) -> float:
    """Seconds since a lease was acquired."""
    # The server's clock minus ours: they may differ by less than the length of a lease.
    return float(time.time() - held.creation_timestamp / 1000)


def read_lease(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The holder's model of a lease, None when nobody holds it."""
    try:
        held = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    # The store reads the tags after the model: without ours it was deleted in between.
    return held if "token" in held.tags else None


def delete_lease(client: MlflowClient, name: str) -> None:
    """Delete a lease, whoever holds it; no error when it is gone already.

    A user who may not delete renames it: the name is free again, and the rest tells who held it.
    """
    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        if error.get_http_status_code() not in (401, 403, 405):
            raise
        client.rename_registered_model(name, f"{name}.{uuid.uuid4().hex[:8]}.released{SUFFIX}")
