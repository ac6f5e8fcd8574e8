"""The code of a job, as a zip: the working tree's tracked files, or a commit."""

from __future__ import annotations

import fnmatch
import io
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.settings import REPOSITORY

# Ray's job server answers 413 to more (measured; it is not documented).
MOST_BYTES = 100 * 2**20
_NUM_NAMED = 5


@dataclass(frozen=True)
class Packed:
    """Counts of a zip. `untracked` are files that git does not know and that were left out."""

    num_files: int
    num_bytes: int
    untracked: tuple[str, ...]


def pack_tree(
    target: Path,
    *,
    excludes: Sequence[str] = (),
    repository: Path = REPOSITORY,
    most_bytes: int = MOST_BYTES,
) -> Packed:
    """Write the tracked files of `repository`, as they are on disk now, to the zip `target`.

    `excludes` are patterns of paths from its root. The same files give the same bytes, so
    that a cluster that has them needs no upload. Raises ValueError outside git, and above `most_bytes`
    zipped, with the names of the largest files.
    """
    names = [
        name
        for name in _git_files(repository, "--cached")
        if not any(fnmatch.fnmatch(name, pattern) for pattern in excludes)
    ]
    # A file that is deleted in the working tree is left out.
    paths = {name: repository / name for name in names if (repository / name).exists()}
    for name, path in paths.items():
        if not path.is_file() or not path.resolve().is_relative_to(repository.resolve()):
            raise ValueError(
                f"{name}: a folder of another repository, or a link out of this one; "
                f"leave it out with --exclude '{name}'"
            )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in paths.items():
            entry = zipfile.ZipInfo(name)  # with a fixed time, 1980
            entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
            _check_size(target.stat().st_size, most_bytes, paths)
    _check_size(target.stat().st_size, most_bytes, paths)
    untracked = _git_files(repository, "--others", "--exclude-standard")
    return Packed(len(paths), target.stat().st_size, tuple(untracked))


def _check_size(num_bytes: int, most_bytes: int, paths: dict[str, Path]) -> None:
    if num_bytes <= most_bytes:
        return
    largest = sorted(paths, key=lambda name: -paths[name].stat().st_size)[:_NUM_NAMED]
    shown = ", ".join(f"{name} ({paths[name].stat().st_size / 2**20:.1f} MiB)" for name in largest)
    raise ValueError(
        f"the tracked files are more than {most_bytes / 2**20:.0f} MiB zipped, which a job server "
        f"refuses; the largest are {shown}. Leave some out with --exclude PATTERN, or put the "
        "code on S3 (jobs.submit pack) and submit with --code s3://…zip"
    )


def archive_commit(repository: Path = REPOSITORY) -> tuple[str, bytes]:
    """The commit that is checked out, and its files as a zip made by `git archive`.

    Raises ValueError when the working tree differs from it: the zip is named by the commit.
    """
    changed = (
        _git(repository, "status", "--porcelain", "--untracked-files=no").decode().splitlines()
    )
    if changed:
        raise ValueError(
            f"{len(changed)} files differ from the commit, the first {changed[0][3:]}; commit them, or "
            "submit the working tree (--code tree)"
        )
    commit = _git(repository, "rev-parse", "HEAD").decode().strip()
    data = _git(repository, "archive", "--format=zip", commit)
    if len(data) > MOST_BYTES:
        files = zipfile.ZipFile(io.BytesIO(data)).infolist()
        largest = max(files, key=lambda entry: entry.compress_size)
        raise ValueError(
            f"commit {commit} is {len(data) / 2**20:.0f} MiB zipped, which nodes would download "
            f"often; the largest file is {largest.filename}"
        )
    return commit, data


def _git_files(repository: Path, *which: str) -> list[str]:
    listed = _git(repository, "ls-files", "-z", *which).decode()
    return sorted(set(filter(None, listed.split("\0"))))


def _git(repository: Path, *words: str) -> bytes:
    command = ["git", "-C", str(repository), *words]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ValueError(
            "git is not installed; submit with --code s3://…zip or --code image"
        ) from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise ValueError(
            f"{repository}: git {words[0]} failed ({reason}); outside a checkout submit with "
            "--code s3://…zip or --code image"
        )
    return done.stdout
