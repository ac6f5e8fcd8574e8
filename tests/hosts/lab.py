"""Three hosts on one machine: a network namespace and a disk each, a link each to one bridge.

`head` runs Ray's head without CPUs for work, the S3 store, and MLflow with PostgreSQL; `a` and `b` run
Ray with one CPU. No host sees another's disk: what passes between them passes over the network. The
person who submits is outside of all three. Needs root, and Linux with network namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from tests.mlflow_server import mlflow_server
from tests.ray_head import TOKEN, wait_for
from tests.s3_servers import KEYS, RadosGateway, make_bucket, rados_gateway

_BRIDGE = "fusionbr"
_OUTSIDE = "10.77.0.254"
_ADDRESSES = {"head": "10.77.0.1", "a": "10.77.0.11", "b": "10.77.0.12"}
WORKERS = ("a", "b")
# Of the head; the rest of a host's processes are Ray's, and those that it started.
_SERVERS = ("postgres", "mlflow", "ceph-", "radosgw")
RAY_PORT, DASHBOARD_PORT = 6399, 8277
S3_URL = f"http://{_ADDRESSES['head']}:15003"
MLFLOW_URL = f"http://{_ADDRESSES['head']}:5000"
JOBS_URL = f"http://{_ADDRESSES['head']}:{DASHBOARD_PORT}"
# A node that says nothing is given up after 3 s + 3 × 3 s instead of a minute: for tests alone.
_HEALTH = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Host:
    """One of the three. `inside` begins the command lines of what runs on it."""

    name: str
    address: str
    disk: Path
    keeper: subprocess.Popen[bytes]
    ray: subprocess.Popen[bytes] | None = None

    @property
    def inside(self) -> list[str]:
        """Enter its network and its view of the disks."""
        return ["nsenter", "--target", str(self.keeper.pid), "--net", "--mount", "--"]

    @property
    def link(self) -> str:
        """The bridge's end of its cable."""
        return _link(self.name)

    def kill(self) -> None:
        """kill -9 of everything but the servers, all at once, as when the power goes."""
        for pid, command in self.processes().items():
            if not any(server in command for server in _SERVERS):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.ray:
            self.ray.wait()
            self.ray = None

    def processes(self) -> dict[int, str]:
        """Its processes and their command lines; not the one that keeps it in being."""
        listed = _output("ip", "netns", "pids", _space(self.name)).split()
        return {int(pid): _command_line(int(pid)) for pid in listed if int(pid) != self.keeper.pid}


@dataclass
class Lab:
    """The hosts and what runs on them."""

    hosts: dict[str, Host]
    folder: Path
    gateway: RadosGateway
    environment: dict[str, str]

    def start_ray(self, name: str) -> None:
        """Start Ray on a host, as its operator would; wait for a head, not for a worker."""
        host = self.hosts[name]
        head = self.hosts["head"]
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block"]
        command += [f"--node-ip-address={host.address}", "--object-store-memory=200000000"]
        if name == "head":
            command += ["--head", f"--port={RAY_PORT}", "--num-cpus=0"]
            command += [f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD_PORT}"]
            command += [f"--temp-dir={host.disk}/ray"]
        else:
            command += [f"--address={head.address}:{RAY_PORT}", "--num-cpus=1"]
        with (self.folder / f"ray-{name}.log").open("ab") as log:
            host.ray = subprocess.Popen(
                [*host.inside, *command],
                env=_node_environment(host) | (_HEALTH if name == "head" else {}),
                stdout=log,
                stderr=log,
            )
        if name == "head":
            wait_for(f"{JOBS_URL}/api/version", timeout_s=180)

    def submit(self, *words: str, log: Path, **changes: str) -> subprocess.Popen[bytes]:
        """`jobs.submit --follow` of one of our commands, from outside; its process."""
        command = [sys.executable, "-m", "jobs.submit", "--address", JOBS_URL, "--follow", "--"]
        with log.open("ab") as stream:
            return subprocess.Popen(
                [*command, *words],
                cwd=REPOSITORY,
                env=self.environment | changes,
                stdout=stream,
                stderr=stream,
            )

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        _run("ip", "link", "set", _link(name), "down")

    def mend(self, name: str) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", _link(name), "up")


@contextmanager
def lab() -> Iterator[Lab]:
    """Build the hosts and start everything on them; take it all down after. Skips where it cannot."""
    _skip_where_it_cannot()
    # Short: Ray's sockets allow about 100 characters of path.
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    folder.chmod(0o755)  # PostgreSQL runs as a user of its own
    (folder / "disk").mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(_bridge())
        hosts = {
            name: stack.enter_context(_host(name, address, folder / "disk"))
            for name, address in _ADDRESSES.items()
        }
        inside = hosts["head"].inside
        gateway = stack.enter_context(rados_gateway(folder / "s3", S3_URL, inside))
        artifacts = make_bucket(S3_URL, "mlflow")
        make_bucket(S3_URL, "fusion")
        stack.enter_context(
            mlflow_server(artifacts, S3_URL, MLFLOW_URL, folder / "mlflow.log", inside)
        )
        built = Lab(hosts, folder, gateway, _client_environment(folder / "disk"))
        for name in hosts:
            stack.callback(hosts[name].kill)
            built.start_ray(name)
        yield built


def _client_environment(disk: Path) -> dict[str, str]:
    """Where things are, and the token: what somebody needs who submits from elsewhere."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {
        "RAY_AUTH_TOKEN": TOKEN,
        "FUSION_WORK": f"{disk}/work",
        "FUSION_DATASETS": "s3://fusion/datasets",
        "FUSION_RUNS": "s3://fusion/runs",
        "AWS_ENDPOINT_URL": S3_URL,
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": MLFLOW_URL,
    }


def _node_environment(host: Host) -> Mapping[str, str]:
    """What an operator gives a node; all that a process writes is on the host's own disk."""
    return KEYS | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": f"{host.disk}/home",
        "TMPDIR": f"{host.disk}/tmp",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # A host's name means 127.0.0.1 here, where no other host would find it.
        "GLOO_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "1",
        # Each host would count the whole machine's memory, and kill its workers for the others' use.
        "RAY_memory_monitor_refresh_ms": "0",
    }


def _skip_where_it_cannot() -> None:
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"no hosts of our own here: {', '.join(missing) or 'not root'}")
    probe = ["unshare", "--net", "--mount", "ip", "link", "add", "probe", "type", "bridge"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")


@contextmanager
def _bridge() -> Iterator[None]:
    if Path(f"/sys/class/net/{_BRIDGE}").exists():
        spaces = " ".join(map(_space, _ADDRESSES))
        pytest.skip(
            f"{_BRIDGE} exists: another lab runs here, or one was killed; then kill what "
            f"`ip netns pids` tells of {spaces}, `ip netns del` them and `ip link del {_BRIDGE}`"
        )
    _run("ip", "link", "add", _BRIDGE, "type", "bridge")
    try:
        _run("ip", "addr", "add", f"{_OUTSIDE}/24", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        yield
    finally:
        _run("ip", "link", "del", _BRIDGE)


@contextmanager
def _host(name: str, address: str, disk: Path) -> Iterator[Host]:
    space, link = _space(name), _link(name)
    gone_by = time.monotonic() + 120
    while Path(f"/sys/class/net/{link}").exists():  # the kernel takes its time with the last lab's
        assert time.monotonic() < gone_by, f"{link} exists: `ip link del {link}`"
        time.sleep(0.1)
    _run("ip", "netns", "add", space)
    try:
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", link, "master", _BRIDGE, "up")
        _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _run("ip", "-n", space, "link", "set", device, "up")
        _run("ip", "-n", space, "route", "add", "default", "via", _OUTSIDE)
        mounts = f"mount -t tmpfs -o mode=755 host {disk} && mount -t tmpfs host /dev/shm"
        folders = f"mkdir -m 1777 {disk}/tmp {disk}/home"
        keep = f"{mounts} && {folders} && touch {disk}/up && exec sleep infinity"
        command = ["ip", "netns", "exec", space, "unshare", "--mount", "--propagation", "private"]
        keeper = subprocess.Popen([*command, "sh", "-c", keep])
        try:
            deadline = time.monotonic() + 30
            while not Path(f"/proc/{keeper.pid}/root{disk}/up").exists():
                assert keeper.poll() is None, f"host {name} has not come up"
                assert time.monotonic() < deadline, f"host {name} has not come up"
                time.sleep(0.05)
            yield Host(name, address, disk, keeper)
        finally:
            keeper.kill()
            keeper.wait()
    finally:
        _run("ip", "netns", "del", space)


def _space(name: str) -> str:
    return f"fusion-{name}"


def _link(name: str) -> str:
    return f"fusion-{name}"


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _run(*command: str) -> None:
    _output(*command)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
