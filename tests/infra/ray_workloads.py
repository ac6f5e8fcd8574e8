"""What the Ray tests send to workers: importable there, so it travels by reference."""

import base64
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray


def square_or_die(number: int, folder: str) -> int:
    """Square a number; the first worker that gets 3 dies like one that was killed."""
    flag = Path(folder) / "died"
    if number == 3 and not flag.exists():
        flag.touch()
        os._exit(1)
    return number * number


def refuse(number: int) -> int:
    """Fail as bad input does."""
    raise ValueError(f"picture {number} is bad; look at it")


def count_in_flight(_: int, folder: str) -> int:
    """How many calls run at this moment."""
    mine = Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}"
    mine.touch()
    time.sleep(0.2)
    running = len(list(Path(folder).iterdir()))
    mine.unlink()
    return running


def node_of(_: int, hurry: str) -> str:
    """Work for a while, or hardly when a file says so; on which node."""
    time.sleep(0.02 if Path(hurry).exists() else 0.5)
    return ray.get_runtime_context().get_node_id()


class Located:
    """What an actor holds: the same as a call."""

    def __init__(self, hurry: str) -> None:
        self.hurry = hurry

    def __call__(self, item: int) -> str:
        """Work."""
        return node_of(item, self.hurry)


def count_steps(
    payload: dict[str, Any],
    *,
    rank: int,
    world_size: int,
    device: str,
    resume: Iterable[Path],
    report: Callable[[dict[str, Any], Path | None], None],
) -> None:
    """A training loop in small: counts to `num_steps`, checkpoints every 2; rank 1 dies once after 3.

    Checkpoints hold `num_bytes` besides the step.
    """
    assert device == "cpu"
    start = 0
    for folder in resume:
        start = int((folder / "step").read_text())
        break
    (Path(payload["folder"]) / f"started-{rank}-{os.getpid()}").write_text(str(start))
    for step in range(start + 1, payload.get("num_steps", 6) + 1):
        time.sleep(0.3)
        flag = Path(payload["folder"]) / "died"
        if world_size == 2 and rank == 1 and step == 4 and not flag.exists():
            flag.touch()
            os._exit(1)
        folder = None
        if step % 2 == 0 and rank == 0:
            folder = Path(payload["folder"]) / f"scratch-{step}-{start}"
            folder.mkdir()
            (folder / "step").write_text(str(step))
            (folder / "bytes").write_bytes(os.urandom(payload.get("num_bytes", 0)))
        metrics: dict[str, Any] = {
            "step": float(step),
            "loss": 10.0 * step + rank,
            "samples_per_s": 1.0,
            "world_size": float(world_size),
            "host_peak_mib": 100.0 + rank,
        }
        if rank == 0 and step % 3 == 0:
            metrics["previews"] = base64.b64encode(f"picture {step}".encode()).decode()
        report(metrics, folder)


class Silent:
    """Nobody listens."""

    def __call__(self, metrics_per_rank: list[dict[str, float]]) -> None: ...

    def close(self) -> None: ...


def refuse_training(payload: dict[str, Any], **_: Any) -> None:
    """A loop that finds its configuration wrong."""
    (Path(payload["folder"]) / f"tried-{os.getpid()}").touch()
    raise ValueError(f"nothing to train on in {payload['folder']}")


class Unmakable:
    """What an actor cannot hold: dies while it is made, as for want of memory, leaving a file."""

    def __init__(self, folder: str) -> None:
        (Path(folder) / str(os.getpid())).touch()
        os._exit(1)

    def __call__(self, item: int) -> int:
        """Never."""
        return item


class Counted:
    """What an actor holds: dies of 1, leaving a file; else counts the calls of its process."""

    def __init__(self, folder: str) -> None:
        self.folder, self.num_calls = Path(folder), 0

    def __call__(self, item: int) -> int:
        """Count."""
        if item == 1:
            (self.folder / str(os.getpid())).touch()
            os._exit(1)
        self.num_calls += 1
        return self.num_calls


def away_at_first(item: int, folder: str) -> int:
    """Find the store away, twice."""
    tries = len(list(Path(folder).iterdir()))
    (Path(folder) / f"try-{tries}").touch()
    if tries < 2:
        raise ConnectionError("the store is away")
    return item


def mutter(item: int) -> int:
    """Write to stderr as a crash does, and live until the log is collected."""
    os.write(2, b"of a worker alone\n")
    time.sleep(2)
    return item
