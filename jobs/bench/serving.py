"""What the service costs beside fusing, what a second replica brings, and what fifty clients at once wait.

The service is `jobs.serve` in a process of its own, as people start it, on CPUs. Against it stands what
`jobs.fuse` does with a folder's pair, in this process: read, fuse and write it, on one thread, as a
replica has one. Both take the same pair in turn, and the median of the ratios is printed, so that
neighbours on the machine disturb both alike.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import torch
from pydantic import BaseModel, ConfigDict

from infra.settings import REPOSITORY, Settings, serve_token
from jobs.bench.lines import Line, report_lines
from jobs.console import section
from jobs.fuse.run import bundle_of
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import FusablePair, Fusing, PairFuser
from pipelines.sources.pictures import encode_png
from pipelines.sources.scenes import read_file
from pipelines.store.folders import LocalFolder
from pipelines.synthetic.pairs import render_scene

_START_S, _ANSWER_S = 600.0, 600.0


class ServeSizes(BaseModel):
    """How much is measured; sides in pixels. Each of the clients sends its pairs one after the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = 480
    width: int = 640
    pairs_in_turn: int = 10
    pairs_at_pace: int = 40
    clients: int = 50
    pairs_a_client: int = 2


SMOKE = ServeSizes(height=96, width=128, pairs_in_turn=3, pairs_at_pace=8, pairs_a_client=1)


@dataclass(frozen=True)
class Answered:
    """An answer's status, and the seconds from the request to its last byte."""

    status: int
    seconds: float


def bench_serve(model: str, settings: Settings, *, smoke: bool = False) -> list[Line]:
    """Measure every line, print them, and write `<work>/bench/serve.json`.

    Raises ValueError for an unknown model, and where the service does not start, with its last line.
    """
    sizes = SMOKE if smoke else ServeSizes()
    torch.set_num_threads(1)
    name = "serve-smoke" if smoke else "serve"
    pair = rendered_pair(settings.work / "bench" / name, sizes)
    fusing = Fusing(bundle=read_bundle(bundle_of(model, settings)))
    fuse = PairFuser(fusing, read_file, LocalFolder(settings.work / "bench" / name / "fused"))
    section("1 replica")
    with _service(model, settings, replicas=1, name=name) as url:
        lines = [in_turn(url, lambda: fuse([pair]), pair, sizes)]
        one = pairs_per_s(url, pair, sizes, replicas=1)
    section("2 replicas")
    with _service(model, settings, replicas=2, name=name) as url:
        two = pairs_per_s(url, pair, sizes, replicas=2)
        lines.append(
            Line("pairs/s, 2 replicas against 1", two / one, 1.7, True, f"{two:.2f}/{one:.2f}")
        )
        lines.append(many_clients(url, pair, sizes))
    report_lines(lines, sizes, settings.work / "bench" / f"{name}.json")
    return lines


def rendered_pair(folder: Path, sizes: ServeSizes) -> FusablePair:
    """A rendered pair as two PNGs."""
    vi, ir = render_scene(1, height=sizes.height, width=sizes.width)
    target = LocalFolder(folder)
    target.replace("vi.png", encode_png(vi))
    target.replace("ir.png", encode_png(ir))
    return FusablePair(
        vi_uri=str(folder / "vi.png"), ir_uri=str(folder / "ir.png"), name="fused.png"
    )


@contextmanager
def _service(model: str, settings: Settings, *, replicas: int, name: str) -> Iterator[str]:
    """`jobs.serve` for the block; gives its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jobs.serve", model, "--device", "cpu", "--port", str(port)]
    command += ["--replicas", str(replicas), "--work", str(settings.work)]
    log = settings.work / "bench" / name / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=stream, stderr=stream)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            if requests.get(f"{url}/readyz", timeout=30).ok:
                return
        except requests.RequestException:  # it does not listen yet
            pass
        time.sleep(0.5)
    *_, last = ["it says nothing", *log.read_text().split("\n")[:-1]]
    raise ValueError(f"the service does not answer: {last} ({log})")


def ask(url: str, pair: FusablePair) -> Answered:
    """Send a pair and take its picture."""
    files = {"vi": read_file(pair.vi_uri), "ir": read_file(pair.ir_uri)}
    headers = {"Authorization": f"Bearer {serve_token()}"}
    started = time.perf_counter()
    answer = requests.post(f"{url}/fuse", files=files, headers=headers, timeout=_ANSWER_S)
    return Answered(answer.status_code, time.perf_counter() - started)


def in_turn(url: str, fuse: Callable[[], object], pair: FusablePair, sizes: ServeSizes) -> Line:
    """Served seconds a pair against those of `fuse`, after a pair of each that warms up."""
    ask(url, pair)
    fuse()
    served, fused = list[float](), list[float]()
    for _ in range(sizes.pairs_in_turn):
        served.append(ask(url, pair).seconds)
        started = time.perf_counter()
        fuse()
        fused.append(time.perf_counter() - started)
    ratio = statistics.median(a / b for a, b in zip(served, fused, strict=True))
    detail = f"{statistics.median(served):.3f} s against {statistics.median(fused):.3f} s"
    return Line("served seconds a pair, of jobs.fuse's", ratio, 1.1, False, detail)


def pairs_per_s(url: str, pair: FusablePair, sizes: ServeSizes, *, replicas: int) -> float:
    """Pairs a second where each replica has one under way and one at hand."""
    clients = 2 * replicas
    together(url, pair, clients=clients, each=2)  # warms up each replica
    started = time.perf_counter()
    answers = together(url, pair, clients=clients, each=sizes.pairs_at_pace // clients)
    return len(answers) / (time.perf_counter() - started)


def many_clients(url: str, pair: FusablePair, sizes: ServeSizes) -> Line:
    """How many answers are neither a picture nor a 429, and what the others waited."""
    answers = together(url, pair, clients=sizes.clients, each=sizes.pairs_a_client)
    statuses = Counter(answer.status for answer in answers)
    seconds = [answer.seconds for answer in answers if answer.status == 200]
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive") if seconds[1:] else []
    waited = f"p50 {percentiles[49]:.2f} s, p99 {percentiles[98]:.2f} s; " if percentiles else ""
    counted = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    failed = len(answers) - statuses[200] - statuses[429]
    return Line(f"errors of {sizes.clients} clients", failed, 0, False, waited + counted)


def together(url: str, pair: FusablePair, *, clients: int, each: int) -> list[Answered]:
    """What clients get that all send at once, and each its next pair when it has the one before."""
    with ThreadPoolExecutor(clients) as threads:
        found = threads.map(lambda _: [ask(url, pair) for _ in range(each)], range(clients))
        return [answer for answers in found for answer in answers]
