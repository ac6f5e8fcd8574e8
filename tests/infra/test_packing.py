import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from infra.packing import archive_commit, pack_tree
from infra.settings import Settings
from infra.storage.client import read_object
from jobs.submit.run import check_archive, pack
from tests.s3_servers import make_bucket


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two files, and one that is not added."""
    folder = tmp_path / "repository"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "run.py").write_text("1\n")
    (folder / "jobs" / "run.py").chmod(0o755)
    (folder / "notes.md").write_text("2\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "first")
    (folder / "jobs" / "new.py").write_text("3\n")
    return folder


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_tracked_files_as_they_are_now(repository: Path, tmp_path: Path) -> None:
    (repository / "jobs" / "run.py").write_text("changed\n")
    packed = pack_tree(tmp_path / "a.zip", repository=repository)
    assert (packed.num_files, packed.untracked) == (2, ("jobs/new.py",))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["jobs/run.py", "notes.md"]
        assert archive.read("jobs/run.py") == b"changed\n"
        modes = [entry.external_attr >> 16 for entry in archive.infolist()]
    assert modes == [0o755, 0o644]
    pack_tree(tmp_path / "b.zip", repository=repository)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_excluded_and_deleted_files_stay_out(repository: Path, tmp_path: Path) -> None:
    packed = pack_tree(tmp_path / "a.zip", repository=repository, excludes=["jobs/*"])
    assert packed.num_files == 1
    (repository / "notes.md").unlink()
    assert pack_tree(tmp_path / "b.zip", repository=repository).num_files == 1


def test_too_much_code_is_refused_with_the_largest_files(repository: Path, tmp_path: Path) -> None:
    weights = repository / "weights.bin"
    weights.write_bytes(bytes(range(256)) * 4000)
    git(repository, "add", "weights.bin")
    with pytest.raises(ValueError, match=r"weights.bin \(1.0 MiB\).*--exclude"):
        pack_tree(tmp_path / "a.zip", repository=repository, most_bytes=4000)
    packed = pack_tree(
        tmp_path / "a.zip", repository=repository, most_bytes=4000, excludes=["*.bin"]
    )
    assert packed.num_bytes < 4000


def test_a_link_out_of_the_tree_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "hosts").symlink_to("/etc/hostname")
    git(repository, "add", "hosts")
    with pytest.raises(ValueError, match=r"hosts: .*a link out of this one"):
        pack_tree(tmp_path / "a.zip", repository=repository)


def test_outside_git(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--code image"):
        pack_tree(tmp_path / "a.zip", repository=tmp_path)


def test_a_commit_as_it_was_made(repository: Path) -> None:
    commit, data = archive_commit(repository)
    assert commit == git(repository, "rev-parse", "HEAD")
    assert "jobs/run.py" in zipfile.ZipFile(io.BytesIO(data)).namelist()
    (repository / "notes.md").write_text("changed\n")
    with pytest.raises(ValueError, match=r"1 files differ from the commit, the first notes.md"):
        archive_commit(repository)


def test_a_commit_on_s3(
    repository: Path, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("FUSION_WORK", str(tmp_path))
    bucket = make_bucket(moto_url, "code")
    settings = Settings(
        work=tmp_path,
        s3_endpoint_url=moto_url,
        tracking_uri="",
        artifact_root=None,
        ray_address=None,
    )
    uri = pack(f"{bucket}/fusion", settings, repository=repository)
    assert uri == f"s3://code/fusion/{git(repository, 'rev-parse', 'HEAD')}.zip"
    assert pack(f"{bucket}/fusion", settings, repository=repository) == uri
    with zipfile.ZipFile(io.BytesIO(read_object(uri, moto_url))) as archive:
        assert "jobs/run.py" in archive.namelist()
    check_archive(uri)
    with pytest.raises(ValueError, match=r"no such object; put it there with: jobs\.submit pack"):
        check_archive(f"{bucket}/fusion/absent.zip")
    with pytest.raises(ValueError, match="s3://BUCKET/PREFIX"):
        pack(str(tmp_path), settings, repository=repository)
