"""One driver for a training: two that started the same would write one run folder, log each step twice.

The driver's lease is renewed while it lives. One that was killed leaves it behind: on its own machine
the next driver sees that the process is gone, elsewhere it waits until the lease has run out.
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
from infra.registry.tracking import NO_ANSWER, check_answers, find_run
from infra.settings import who_runs

_UNTIL_TERM_S = 30.0


@dataclass(frozen=True)
class Pace:
    """How often a lease is renewed, and how long one counts that is not."""

    beat_s: float = 10.0
    lease_s: float = 60.0


class LostTrainingError(ValueError):
    """Another driver took this one's training for dead, and trains it now."""


@contextmanager
def training_lease(
    client: MlflowClient,
    config_digest: str,
    *,
    say: Callable[[str], None],
    pace: Pace = Pace(),
) -> Iterator[Callable[[], bool]]:
    """Hold the training of a configuration, in the whole store, for the block.

    Gives what tells whether it was lost meanwhile; who loses it is interrupted, which becomes
    LostTrainingError. Raises ValueError that names the holder when another driver lives that has it.
    `say` is told of waiting.
    """
    lease = _take(client, config_digest, say, pace)
    ended, lost = threading.Event(), threading.Event()
    beats = threading.Thread(target=_keep, args=(lease, pace, ended, lost), daemon=True)
    beats.start()
    try:
        yield lost.is_set
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray makes the one of the other
        if lost.is_set():
            raise LostTrainingError(
                "another driver took this training over, because the store had not heard of this one "
                f"for {pace.lease_s:.0f} s; its run goes on there"
            ) from stop
        raise
    finally:
        ended.set()
        # Not longer: a store that does not answer holds the thread for minutes.
        beats.join(pace.beat_s)
        _release(lease)


def _take(
    client: MlflowClient, config_digest: str, say: Callable[[str], None], pace: Pace
) -> Lease:
    name, broken = f"{config_digest[:16]}.training{SUFFIX}", False
    while True:
        held = _create(client, name)
        if isinstance(held, Lease):
            return _settled(held) if broken else held
        described = _described(client, config_digest, held)
        if not _is_dead(client, held, described, say, pace):
            raise ValueError(f"{described}; stop it or wait")
        broken = True
        Lease(client, name, held.tags["token"]).release()


def _create(
    client: MlflowClient, name: str, *, token: str | None = None
) -> Lease | RegisteredModel:
    tags = {"holder": who_runs(), "beat": str(time.time()), "machine": _machine()}
    tags |= {"pid": str(os.getpid()), "started": str(_started(os.getpid()))}
    return create_lease(client, name, tags, description="A training is under way.", token=token)


def _is_dead(
    client: MlflowClient,
    held: RegisteredModel,
    described: str,
    say: Callable[[str], None],
    pace: Pace,
) -> bool:
    """Whether a holder is gone: a process of this machine at once, else one that is silent too long."""
    if held.tags["machine"] == _machine():
        return _started(int(held.tags["pid"])) != held.tags["started"]
    # By its clock and ours. Two beats in any case: the store itself may have been away until now.
    silent_s = time.time() - float(held.tags["beat"])
    patience_s = min(pace.lease_s, max(pace.lease_s - silent_s, 2 * pace.beat_s))
    say(f"  {described}, on another machine:")
    say(f"  waiting up to {patience_s:.0f} s to see whether it lives")
    given_up_s = time.monotonic() + patience_s
    while time.monotonic() < given_up_s:
        time.sleep(pace.beat_s / 4)
        now = read_lease(client, held.name)
        if now is None:  # given back
            return True
        if now.tags != held.tags:
            return False
    return True


def _settled(lease: Lease) -> Lease:
    """A lease that was broken before it was taken: two that broke it at once may have crossed."""
    time.sleep(1.0)
    if not lease.is_held():
        raise ValueError("another driver took this training over at the same moment; wait for it")
    return lease


def _keep(lease: Lease, pace: Pace, ended: threading.Event, lost: threading.Event) -> None:
    """Renew the lease until `ended`; once another driver has it, interrupt this process."""
    while not ended.wait(pace.beat_s):
        try:
            check_answers(lease.client.tracking_uri)
            if not _renew(lease) and not ended.is_set():
                _interrupt(ended, lost)
                return
        except (*NO_ANSWER, ValueError):
            # Away, or changed under our hands: a training goes on, and the next beat finds out more.
            continue


def _interrupt(ended: threading.Event, lost: threading.Event) -> None:
    lost.set()
    os.kill(os.getpid(), signal.SIGINT)
    if not ended.wait(_UNTIL_TERM_S):  # a shell lets its background jobs ignore the first
        os.kill(os.getpid(), signal.SIGTERM)


def _renew(lease: Lease) -> bool:
    """Say that the holder lives; False when another one has the lease."""
    held = read_lease(lease.client, lease.name)
    if held is None:  # deleted by hand, or broken by one that will find it here again
        return isinstance(_create(lease.client, lease.name, token=lease.token), Lease)
    if held.tags.get("token") != lease.token:
        return False
    lease.client.set_registered_model_tag(lease.name, "beat", str(time.time()))
    return True


def _release(lease: Lease) -> None:
    try:
        check_answers(lease.client.tracking_uri)
        lease.release()
    except NO_ANSWER:  # it runs out
        return


def _described(client: MlflowClient, config_digest: str, held: RegisteredModel) -> str:
    run = find_run(client, config_digest)
    what = f"run {run.info.run_id}" if run else "this configuration"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() - age_s(held)))
    return f"{what} is being trained by {held.tags['holder']} since {since}"


def _machine() -> str:
    """What process ids are of: this boot of this kernel, this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the boot: a later one may have its id. None: it is gone."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
