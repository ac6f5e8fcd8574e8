"""Paths of source pictures: on disk `pathlib.Path` itself, in an object store a path in a listing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self


class SourcePath(Protocol):
    """What of `pathlib.Path` the layouts use."""

    @property
    def name(self) -> str:
        """Last part."""

    @property
    def stem(self) -> str:
        """Last part without its suffix."""

    @property
    def suffix(self) -> str:
        """Suffix, with its dot."""

    def iterdir(self) -> Iterator[Self]:
        """What lies in a folder."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""

    def is_file(self) -> bool:
        """Whether it is a file."""

    def resolve(self) -> Self:
        """The absolute path; as a string, the URI that scenes carry."""

    def __lt__(self, other: Any, /) -> bool:
        """Order by name."""


@dataclass(frozen=True)
class RemotePath:
    """A path in the tree that a store's listing makes; folders are what names have in common."""

    uri: str
    # A folder is a mapping, a file what the listing says of its bytes (size and ETag).
    node: Mapping[str, Any] | str = field(default="", repr=False, compare=False)

    @classmethod
    def of(cls, uri: str, names: Iterable[str] | Mapping[str, str]) -> RemotePath:
        """The root at `uri` of files by their names below it, "train/vi/a.png", perhaps with stamps."""
        root: dict[str, Any] = {}
        stamps = names if isinstance(names, Mapping) else dict.fromkeys(names, "")
        for name, stamp in stamps.items():
            *folders, file = name.split("/")
            node = root
            for folder in folders:
                node = node.setdefault(folder, {})
            if file:  # some tools put an empty object in place of a folder
                node[file] = stamp
        return cls(uri.rstrip("/"), root)

    def __str__(self) -> str:
        return self.uri

    def __lt__(self, other: RemotePath) -> bool:
        return self.uri < other.uri

    @property
    def name(self) -> str:
        """Last part."""
        return self.uri.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Last part without its suffix."""
        return self.name.removesuffix(self.suffix)

    @property
    def suffix(self) -> str:
        """Suffix, with its dot; "" when there is none."""
        stem, dot, suffix = self.name.rpartition(".")
        return f".{suffix}" if stem and dot else ""

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in a folder."""
        for name, node in self.node.items() if isinstance(self.node, Mapping) else ():
            yield RemotePath(f"{self.uri}/{name}", node)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return isinstance(self.node, Mapping) and bool(self.node)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return isinstance(self.node, str)

    def resolve(self) -> RemotePath:
        """Itself: its URI is absolute."""
        return self


def stamp_of(path: SourcePath) -> str:
    """What changes with a file's bytes, without reading them: size and time, or size and ETag.

    "" where that is not known.
    """
    if isinstance(path, RemotePath):
        return path.node if isinstance(path.node, str) else ""
    try:
        status = Path(str(path)).stat()
    except OSError:  # a link that leads nowhere; who reads it names it
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"
