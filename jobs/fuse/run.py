"""Pairs of pictures fused into PNG: one in this process, folders on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path, PurePosixPath

from infra.settings import Settings
from jobs.console import print_line, progress
from jobs.locations import cached_folder, open_folder, open_sources, source_reader
from jobs.placement import ANYWHERE, Placement
from models.devices import use_device
from pipelines.bundles.degradation_types import in_words
from pipelines.bundles.fusing import (
    Failure,
    FusablePair,
    Fusing,
    PairFuser,
    find_fusable,
    left_to_fuse,
    with_windows,
    write_failures,
)
from pipelines.bundles.pretrained import local_folder, pretrained_folders
from pipelines.checks.depth import WindowRule
from pipelines.sources.names import IMAGE_SUFFIXES
from pipelines.sources.scenes import Read
from pipelines.store.files import whole_folder
from pipelines.store.folders import Folder

# Endings of what is written; others are folders.
_WRITTEN = (".png", ".jpg", ".jpeg")
# Pairs that a GPU fuses at once; its memory for 640×480 is some GiB, and one that has less takes fewer.
GPU_BATCH = 8


@dataclass(frozen=True)
class FolderOutcome:
    """Outcome of fusing two folders: pictures made, skipped because they exist, and failed."""

    made: int
    skipped: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class FuseTask:
    """What is to be fused, and where: two pictures or two folders, as URIs.

    `windows` are rules for pictures of more than 8 bits, by camera. Of folders, `batch_size` pairs that lie
    side by side are fused at once where they are of one size (None: one on a CPU, `GPU_BATCH` on a GPU);
    pictures that `out` holds already are skipped, unless `overwrite`.
    """

    vi: str
    ir: str
    out: str
    windows: Mapping[str, WindowRule | None] = field(default_factory=dict)
    placement: Placement = ANYWHERE
    batch_size: int | None = None
    overwrite: bool = False

    def batch_size_on(self, device: str) -> int:
        """How many pairs a device fuses at once."""
        return self.batch_size or (1 if device == "cpu" else GPU_BATCH)


def fuse_folders(fusing: Fusing, settings: Settings, task: FuseTask) -> FolderOutcome:
    """Fuse two folders or S3 prefixes, paired by stem, into `task.out`.

    What cannot be fused is listed in its `failures.json`. Raises ValueError where no pair can be fused.
    """
    vi, ir, out = task.vi, task.ir, task.out
    folder = open_folder(out, settings)
    if folder.uri in (open_folder(vi, settings).uri, open_folder(ir, settings).uri):
        raise ValueError(f"--out {out}: is where sources lie; choose another folder")
    pairs, alone = find_fusable(open_sources(vi, settings), open_sources(ir, settings))
    _check_targets(pairs, folder)
    fusing = _windowed(fusing, pairs, settings, task.windows)
    left = left_to_fuse(pairs, folder, fusing, overwrite=task.overwrite)
    skipped = len(pairs) - len(left)
    if skipped:
        print_line(f"  skipping {skipped} of {len(pairs)} pictures, which exist already")
    of_fuser = fusing, source_reader(settings), folder
    done, failures = skipped, list(alone)
    with progress("pairs", len(pairs)) as advance:
        fuse = _fuse_here if task.placement.local else partial(_fuse_on_ray, settings)
        # Ray and the model are only needed where there is work.
        for batch, failed in fuse(left, task, of_fuser) if left else ():
            failures += failed
            done += len(batch)
            advance(done, batch[-1].name)
    write_failures(failures, folder)
    made = len(left) - (len(failures) - len(alone))
    return FolderOutcome(made, skipped, tuple(failures))


def _windowed(
    fusing: Fusing,
    pairs: Sequence[FusablePair],
    settings: Settings,
    windows: Mapping[str, WindowRule | None],
) -> Fusing:
    """Fusing with the windows of the pairs' pictures, which a person is told."""
    fusing = with_windows(fusing, pairs, source_reader(settings), windows)
    for camera, window in (("vi", fusing.vi_window), ("ir", fusing.ir_window)):
        if window:
            print_line(f"  {window.described(camera)}")
    return fusing


def _check_targets(pairs: Sequence[FusablePair], folder: Folder) -> None:
    """Raise ValueError where a fused picture would take the place of a source, by whatever path."""
    sources = {_whole_uri(uri) for pair in pairs for uri in (pair.vi_uri, pair.ir_uri)}
    for pair in pairs:
        target = _whole_uri(f"{folder.uri}/{pair.name}")
        if target in sources:
            raise ValueError(f"--out: {target} is one of the sources; choose another place")


def _whole_uri(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).resolve())


_Batch = Sequence[FusablePair]
_Outcome = tuple[_Batch, list[Failure]]
_OfFuser = tuple[Fusing, Read, Folder]


def _batches(pairs: _Batch, size: int) -> list[_Batch]:
    """The pairs in order, so many at once."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _fuse_here(pairs: _Batch, task: FuseTask, of_fuser: _OfFuser) -> Iterator[_Outcome]:
    device = use_device(task.placement.device)
    fuse = PairFuser(*of_fuser, str(device))
    for batch in _batches(pairs, task.batch_size_on(device.type)):
        yield batch, fuse(batch)


def _fuse_on_ray(
    settings: Settings, pairs: _Batch, task: FuseTask, of_fuser: _OfFuser
) -> Iterator[_Outcome]:
    from infra.cluster.connect import connected
    from infra.cluster.nodes import gpus_of_worker
    from infra.cluster.tasks import map_actors

    with connected(settings):
        num_gpus = gpus_of_worker(task.placement.device, task.placement.gpu_share)
        device = "cuda" if num_gpus else "cpu"
        batches = _batches(pairs, task.batch_size_on(device))
        for batch, failed in map_actors(PairFuser, batches, *of_fuser, device, num_gpus=num_gpus):
            if isinstance(failed, Exception):
                # Most likely out of memory, which a smaller tile mends.
                reason = "its worker died twice, perhaps out of memory; try --tile"
                failed = [Failure(name=pair.name, reason=reason) for pair in batch]
            yield batch, failed


def resolve_model(model: str, settings: Settings) -> str:
    """Pin an alias to the version it points at now (`models:/NAME/VERSION`); folders stay folders."""
    if not model.startswith("models:/"):
        folder = local_folder(model)
        if not folder.is_dir():
            known = ", ".join(pretrained_folders()) or "none"
            raise ValueError(
                f"{model}: no such bundle folder; a registered model is models:/NAME@ALIAS or "
                f"models:/NAME/VERSION, and with this repository come: {known}"
            )
        return str(folder)
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    version = registry.find_model(tracking.connect(settings), model)
    return f"models:/{version.name}/{version.version}"


def bundle_of(model: str, settings: Settings) -> Path:
    """The folder of a model's bundle; a registered one is fetched into the work folder's cache."""
    if not model.startswith("models:/"):
        return Path(resolve_model(model, settings))
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    version = registry.find_model(client, model)
    # The run's id, because another store has a version 1, too.
    name = f"{version.name}-{version.version}-{version.run_id[:12]}"
    target = cached_folder(name, settings)
    if not target.is_dir():
        with whole_folder(target) as folder:
            registry.fetch_bundle(client, version, folder)
    return registry.bundle_in(target)


def is_picture(uri: str) -> bool:
    """Whether a URI is one picture: a file on disk, or an object with a picture's suffix."""
    if "://" in uri:
        return PurePosixPath(uri).suffix.lower() in IMAGE_SUFFIXES
    if not Path(uri).exists():
        raise ValueError(f"{uri}: no such file or folder")
    return Path(uri).is_file()


def fuse_one(fusing: Fusing, settings: Settings, task: FuseTask) -> str:
    """Fuse a single pair, in this process; `task.out` is the URI of a PNG, a JPEG or a folder."""
    vi, ir, out = task.vi, task.ir, task.out
    if out.lower().endswith(_WRITTEN):
        parent, _, name = out.rpartition("/")
        root = open_folder(parent or ("/" if out.startswith("/") else "."), settings)
    else:
        root, name = open_folder(out, settings), f"{PurePosixPath(vi).stem}.png"
    pair = FusablePair(vi_uri=vi, ir_uri=ir, name=name)
    _check_targets([pair], root)
    fusing = _windowed(fusing, [pair], settings, task.windows)
    # Once for fusing, and once for what the model sees.
    read = cache(source_reader(settings))
    fuse = PairFuser(fusing, read, root, task.placement.device)
    failures = fuse([pair])
    if failures:
        raise ValueError(failures[0].reason)
    if seen := fuse.sees(pair).shares:
        print_line(f"  the model sees: {in_words(seen)}")
    return f"{root.uri}/{name}"
