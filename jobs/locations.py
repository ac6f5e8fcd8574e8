"""Where data lies, chosen by the scheme of its URI: this disk or S3."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from infra.settings import Settings
from pipelines.datasets.versions import DatasetVersion, find_version
from pipelines.sources.scenes import read_file
from pipelines.sources.source_paths import RemotePath, SourcePath
from pipelines.store.files import delete_least_used
from pipelines.store.folders import Folder, LocalFolder


def open_folder(uri: str, settings: Settings, *, cached: bool = True) -> Folder:
    """Open a folder by its path or `s3://bucket/prefix`.

    Remote files are kept under the work folder, up to a limit, unless not `cached`. Raises ValueError
    on another scheme, ConnectionError where no store answers.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return LocalFolder(Path(uri).resolve())
    if scheme != "s3":
        raise ValueError(f"{uri}: give a path or s3://bucket/prefix")
    from infra.storage.client import check_answers, split_uri
    from infra.storage.s3_folder import S3Folder

    split_uri(uri)
    check_answers(settings.s3_endpoint_url)
    cache = settings.work / "cache" / "files" if cached else None
    return S3Folder(uri.rstrip("/"), settings.s3_endpoint_url, cache, settings.cache_bytes)


def cached_folder(name: str, settings: Settings) -> Path:
    """A folder in the work folder's cache for what is fetched once; it counts as used now.

    The least recently used of the others are deleted where all together exceed the cache's limit.
    """
    cache = settings.work / "cache"
    folder = cache / name
    if folder.is_dir():
        os.utime(folder)
    # Fetched files have a limit of their own, and locks.
    delete_least_used(cache, settings.cache_bytes, keep={name, "files"})
    return folder


def open_datasets(settings: Settings) -> Folder:
    """The root of the dataset versions."""
    return open_folder(settings.datasets, settings)


def open_version(
    version: str, settings: Settings, *, cached: bool = True
) -> tuple[Folder, DatasetVersion]:
    """Root and manifest of a version that is given by its name, or by its manifest's path or URI."""
    uri, name = settings.datasets, version
    if version.endswith(".json"):
        uri, _, name = version.removesuffix(".json").rpartition("/versions/")
        if not uri:
            raise ValueError(f"{version}: a manifest lies at ROOT/versions/NAME.json")
    root = open_folder(uri, settings, cached=cached)
    return root, find_version(root, name)


def open_sources(uri: str, settings: Settings) -> SourcePath:
    """A folder of source pictures: a path, or `s3://bucket/prefix`, which is listed whole."""
    folder = open_folder(uri, settings)
    if isinstance(folder, LocalFolder):
        return folder.path
    from infra.storage.s3_folder import S3Entry

    names = {
        entry.name: f"{entry.num_bytes}-{entry.etag}" if isinstance(entry, S3Entry) else ""
        for entry in folder.entries("")
    }
    if not names:
        raise ValueError(f"{uri}: nothing has this prefix")
    return RemotePath.of(folder.uri, names)


def source_reader(settings: Settings) -> Callable[[str], bytes]:
    """What reads a source by its URI, on any node."""
    return partial(read_source, endpoint_url=settings.s3_endpoint_url)


def read_source(uri: str, *, endpoint_url: str | None) -> bytes:
    """Read a source. Raises ValueError when it is not there."""
    if not uri.startswith("s3://"):
        return read_file(uri)
    from infra.storage.client import read_object

    try:
        return read_object(uri, endpoint_url)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
