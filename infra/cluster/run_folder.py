"""Where Ray Train keeps a run's checkpoints: a folder that all nodes see, or a prefix on S3.

Ray Train writes its list of checkpoints in place, and forgets folders that it was writing when it died.
So a copy of the last complete list is kept beside it, and a run is repaired before it resumes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as fs
import ray
from ray.exceptions import RayError
from ray.train import Checkpoint
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infra.storage.client import connection_of, split_uri
from infra.storage.s3_folder import S3Folder

# Ray Train's own names.
_LIST = "checkpoint_manager_snapshot.json"
_CHECKPOINT = "checkpoint_"
_LIST_COPY = "checkpoint_list_before.json"
# How long nodes are asked whether they see the folder; one that is busy for longer is not blamed.
_LOOK_S = 60.0


@dataclass(frozen=True)
class RunFolder:
    """The folder `name` of a run, below a path or `s3://bucket/prefix`."""

    storage: str
    name: str
    endpoint_url: str | None

    @property
    def uri(self) -> str:
        """Where it is, for people."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    def open(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of `storage` on it. It reads credentials where it is used."""
        if not self.storage.startswith("s3://"):
            return fs.LocalFileSystem(), self.storage
        bucket, key = split_uri(self.storage.rstrip("/"))
        path = f"{bucket}/{key}".rstrip("/")
        # As boto3, which reads datasets: pyarrow alone knows no endpoint or certificates of ~/.aws/config.
        found = connection_of(self.endpoint_url)
        if found.endpoint_url is None:
            region = found.region or fs.resolve_s3_region(bucket)
            return fs.S3FileSystem(region=region, tls_ca_file_path=found.ca_file), path
        parts = urlsplit(found.endpoint_url)
        return fs.S3FileSystem(
            scheme=parts.scheme,
            endpoint_override=parts.netloc + parts.path,
            region=found.region,
            tls_ca_file_path=found.ca_file,
        ), path

    def check_reachable(self) -> None:
        """Raise OSError with a remedy when boto3 or pyarrow cannot list the storage on S3."""
        if not self.storage.startswith("s3://"):
            return
        # boto3 retries, and tells a missing bucket from wrong keys; pyarrow does neither.
        folder = S3Folder(self.storage.rstrip("/"), self.endpoint_url, None)
        next(folder.entries(f"{self.name}/{_LIST}"), None)
        try:
            self._checkpoints()
        except OSError as error:
            reason = " ".join(str(error).split())
            raise OSError(
                f"{self.uri}: boto3 may list it, but pyarrow, which keeps checkpoints, may not "
                f"({reason}); give credentials that both find: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error

    def repair(self) -> list[str]:
        """Restore a list of checkpoints that was cut short; delete folders that no list names.

        Returns the names of what was deleted. Raises ValueError when a listed checkpoint is gone.
        """
        system, path = self._own_path()
        listed = self._listed(_LIST)
        if listed is None and self._read(_LIST) is not None:
            listed = self._restore_list()
        found = {info.base_name: info for info in self._checkpoints()}
        gone = sorted(set(listed or ()) - found.keys())
        if gone:
            raise ValueError(
                f"{self.uri}/{gone[0]}: this run's checkpoint is gone; put it back, or delete "
                f"{self.uri} to train from the start"
            )
        orphans = sorted(found.keys() - set(listed or ()))
        for name in orphans:
            system.delete_dir(f"{path}/{name}")
        return orphans

    def back_up_list(self) -> None:
        """Copy the list of checkpoints, which is complete now. On S3 a list is never cut short."""
        system, path = self._own_path()
        data = self._read(_LIST)
        if isinstance(system, fs.LocalFileSystem) and data is not None:
            self._write(f".tmp-{_LIST_COPY}", data)
            system.move(f"{path}/.tmp-{_LIST_COPY}", f"{path}/{_LIST_COPY}")

    def _restore_list(self) -> list[str] | None:
        """Replace a list that was cut short by its copy; delete it where there is no copy."""
        system, path = self._own_path()
        before = self._listed(_LIST_COPY)
        if before is None:
            system.delete_file(f"{path}/{_LIST}")
            return None
        self._write(_LIST, self._read(_LIST_COPY) or b"")
        return before

    def _listed(self, name: str) -> list[str] | None:
        """The checkpoints that a list names; None when the list is absent or cut short."""
        try:
            results = json.loads(self._read(name) or b"")["checkpoint_results"]
        except (ValueError, KeyError):
            return None
        return [result["checkpoint_dir_name"] for result in results]

    def _checkpoints(self) -> list[fs.FileInfo]:
        system, path = self._own_path()
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return [
            info
            for info in found
            if info.type == fs.FileType.Directory and info.base_name.startswith(_CHECKPOINT)
        ]

    def _read(self, name: str) -> bytes | None:
        system, path = self._own_path()
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        system, path = self._own_path()
        with system.open_output_stream(f"{path}/{name}") as stream:
            stream.write(data)

    def _own_path(self) -> tuple[fs.FileSystem, str]:
        system, path = self.open()
        return system, f"{path}/{self.name}"


def check_seen_by_all(storage: str, resource: str) -> None:
    """Raise ValueError where a node that may get a worker does not see the folder of the runs.

    Ray Train would say so in its own words, after its workers have started.
    """
    nodes = {
        node["NodeManagerAddress"]: node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get(resource)
    }
    if storage.startswith("s3://") or len(nodes) < 2:
        return
    Path(storage).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=storage, prefix=".seen-by-") as marker:
        blind = nodes_without(Path(marker.name), nodes)
    if blind:
        raise ValueError(
            f"FUSION_RUNS {storage}: the node {blind[0]} does not see this folder, and a worker there "
            "could not write its checkpoints; set FUSION_RUNS to s3://bucket/prefix, or to a folder "
            "on a file system that all nodes mount"
        )


def nodes_without(path: Path, nodes: Mapping[str, str]) -> list[str]:
    """Addresses of the nodes (ids by address) that do not see a path.

    A node that does not answer in time, or is lost meanwhile, is not among them: others wait for it.
    """
    look = ray.remote(_is_there)
    seen = {
        look.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        ).remote(str(path)): address
        for address, node_id in nodes.items()
    }
    done, late = ray.wait([*seen], num_returns=len(seen), timeout=_LOOK_S)
    for each in late:
        ray.cancel(each)
    blind = []
    for each in done:
        with suppress(RayError):
            blind += [] if ray.get(each) else [seen[each]]
    return blind


def _is_there(path: str) -> bool:
    return Path(path).exists()


@contextmanager
def fetched_checkpoint(checkpoint: Checkpoint) -> Iterator[Path]:
    """A checkpoint's folder on this disk: its own, or a copy for the length of the block."""
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def older_checkpoints(newest: Checkpoint) -> Iterator[Path]:
    """Folders of the checkpoints before `newest`, newest first, fetched one by one."""
    parent, _, name = newest.path.rpartition("/")
    found = newest.filesystem.get_file_info(fs.FileSelector(parent))
    # Ray names them checkpoint_<time>, so names are in order of time.
    for info in sorted(found, key=lambda info: info.base_name, reverse=True):
        if info.base_name.startswith(_CHECKPOINT) and info.base_name < name:
            with fetched_checkpoint(Checkpoint(info.path, newest.filesystem)) as folder:
                yield folder
