"""The lease of a training: two drivers of one configuration would write one run folder, log steps twice.

The driver renews its lease by heartbeats. A driver that is killed leaves it behind: on the same machine
the next driver sees that the process is gone, elsewhere it waits until the lease has timed out.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from infra.registry.leases import SUFFIX, Lease, age_s, create_lease, read_lease
from infra.registry.tracking import NO_ANSWER, check_reachable, find_run
from infra.settings import who_runs

_SIGTERM_AFTER_S = 30.0


@dataclass(frozen=True)
class Timing:
    """The interval of heartbeats, and the timeout after which a lease without them is broken."""

    heartbeat_s: float = 10.0
    timeout_s: float = 60.0


class LostTrainingError(ValueError):
    """Another driver broke this one's lease and trains now."""


@contextmanager
def training_lease(
    client: MlflowClient,
    config_digest: str,
    *,
    log: Callable[[str], None],
    timing: Timing = Timing(),
) -> Iterator[Callable[[], bool]]:
    """Hold the lease of a configuration's training, in the whole store, for the block.

    Yields a function that returns whether the lease was lost. A driver that loses it is interrupted,
    which becomes LostTrainingError. Raises ValueError that names the holder when another driver that
    lives has it. Waiting is logged with `log`.
    """
    lease = _acquire(client, config_digest, log, timing)
    ended, lost = threading.Event(), threading.Event()
    heartbeats = threading.Thread(
        target=_send_heartbeats, args=(lease, timing, ended, lost), daemon=True
    )
    heartbeats.start()
    try:
        yield lost.is_set
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray turns the first into the second
        if lost.is_set():
            raise LostTrainingError(
                "another driver took this training over, because the store had no heartbeat of this one "
                f"for {timing.timeout_s:.0f} s; its run continues there"
            ) from stop
        raise
    finally:
        ended.set()
        # Not longer: a store that does not answer holds the thread for minutes.
        heartbeats.join(timing.heartbeat_s)
        _release(lease)


def _acquire(
    client: MlflowClient, config_digest: str, log: Callable[[str], None], timing: Timing
) -> Lease:
    name, broken = f"{config_digest[:16]}.training{SUFFIX}", False
    while True:
        held = _create(client, name)
        if isinstance(held, Lease):
            return _confirm(held) if broken else held
        described = _describe(client, config_digest, held)
        if not _is_dead(client, held, described, log, timing):
            raise ValueError(f"{described}; stop it or wait")
        broken = True
        Lease(client, name, held.tags["token"]).release()


def _create(
    client: MlflowClient, name: str, *, token: str | None = None
) -> Lease | RegisteredModel:
    tags = {"holder": who_runs(), "heartbeat": str(time.time()), "machine": _machine()}
    tags |= {"pid": str(os.getpid()), "start_ticks": str(_start_ticks(os.getpid()))}
    return create_lease(client, name, tags, description="A training is under way.", token=token)


def _is_dead(
    client: MlflowClient,
    held: RegisteredModel,
    described: str,
    log: Callable[[str], None],
    timing: Timing,
) -> bool:
    """Whether a holder is gone: on this machine by its process, elsewhere by its heartbeats."""
    if held.tags["machine"] == _machine():
        return _start_ticks(int(held.tags["pid"])) != held.tags["start_ticks"]
    # By its clock and ours. Two heartbeats at least: the store itself may have been down until now.
    silent_s = time.time() - float(held.tags["heartbeat"])
    wait_s = min(timing.timeout_s, max(timing.timeout_s - silent_s, 2 * timing.heartbeat_s))
    log(f"  {described}, on another machine:")
    log(f"  waiting up to {wait_s:.0f} s to see whether it is alive")
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        time.sleep(timing.heartbeat_s / 4)
        now = read_lease(client, held.name)
        if now is None:  # released
            return True
        if now.tags != held.tags:
            return False
    return True


def _confirm(lease: Lease) -> Lease:
    """Wait for another driver that may have broken the same lease at the same time."""
    time.sleep(1.0)
    if not lease.is_held():
        raise ValueError("another driver took this training over at the same moment; wait for it")
    return lease


def _send_heartbeats(
    lease: Lease, timing: Timing, ended: threading.Event, lost: threading.Event
) -> None:
    """Renew the lease until `ended`; interrupt this process when another driver has it."""
    while not ended.wait(timing.heartbeat_s):
        try:
            check_reachable(lease.client.tracking_uri)
            if not _renew(lease) and not ended.is_set():
                _interrupt(ended, lost)
                return
        except (*NO_ANSWER, ValueError):
            # Unreachable, or changed meanwhile: the training continues, the next heartbeat finds out.
            continue


def _interrupt(ended: threading.Event, lost: threading.Event) -> None:
    lost.set()
    os.kill(os.getpid(), signal.SIGINT)
    if not ended.wait(_SIGTERM_AFTER_S):  # a shell lets its background jobs ignore the first
        os.kill(os.getpid(), signal.SIGTERM)


def _renew(lease: Lease) -> bool:
    """Write a heartbeat; False when another driver has the lease."""
    held = read_lease(lease.client, lease.name)
    if held is None:  # deleted by hand, or broken by a driver that then finds this one
        return isinstance(_create(lease.client, lease.name, token=lease.token), Lease)
    if held.tags.get("token") != lease.token:
        return False
    lease.client.set_registered_model_tag(lease.name, "heartbeat", str(time.time()))
    return True


def _release(lease: Lease) -> None:
    try:
        check_reachable(lease.client.tracking_uri)
        lease.release()
    except NO_ANSWER:  # it times out
        return


def _describe(client: MlflowClient, config_digest: str, held: RegisteredModel) -> str:
    run = find_run(client, config_digest)
    what = f"run {run.info.run_id}" if run else "this configuration"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() - age_s(held)))
    return f"{what} is being trained by {held.tags['holder']} since {since}"


def _machine() -> str:
    """The scope of process ids: this boot of the kernel, this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _start_ticks(pid: int) -> str | None:
    """A process's start in clock ticks since the boot, because ids are reused. None: it is gone."""
    try:
        # The name, in brackets, may contain spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
