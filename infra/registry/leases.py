"""The right to do a thing alone, held in the MLflow registry by one of all who share the store.

A lease is a registered model of its name: names are unique in the store, so creating one is the
compare-and-set that tags and aliases lack. Its tags say who holds it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

# How the name of every lease ends; what ends so is no model.
SUFFIX = "-lock"


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds, as long as its `token` stands in the registry."""

    client: MlflowClient
    name: str
    token: str

    def is_held(self) -> bool:
        """Whether nobody took it."""
        held = read_lease(self.client, self.name)
        return held is not None and held.tags.get("token") == self.token

    def release(self) -> None:
        """Give it back, if it was not taken."""
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
    """Take a lease that nobody holds, else return the one that is held; `token` is a new one's.

    Raises ValueError when neither can be: the holder gave it back meanwhile, or the store refuses.
    """
    assert name.endswith(SUFFIX)
    token = token or uuid.uuid4().hex
    try:
        client.create_registered_model(name, tags={**tags, "token": token}, description=description)
    except MlflowException as error:
        held = read_lease(client, name)
        if held is None:
            raise ValueError(f"{name!r} could not be taken ({error.message}); try again") from error
        # A request whose answer was lost is sent again, and then finds our own.
        if held.tags.get("token") != token:
            return held
    return Lease(client, name, token)


def age_s(held: RegisteredModel) -> float:
    """Seconds since a lease was taken."""
    # By the server's clock at its beginning and ours now: clocks may differ by less than a lease.
    return float(time.time() - held.creation_timestamp / 1000)


def read_lease(client: MlflowClient, name: str) -> RegisteredModel | None:
    """A lease that somebody holds, None when nobody does."""
    try:
        held = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    # The store reads the tags after the model: without ours it was deleted in between.
    return held if "token" in held.tags else None


def delete_lease(client: MlflowClient, name: str) -> None:
    """Break a lease, whoever holds it; that it is gone already is no error."""
    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
