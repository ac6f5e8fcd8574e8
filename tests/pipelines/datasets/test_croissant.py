"""Croissant metadata of a dataset version says where its files are, and which."""

import fnmatch
import json
import tarfile

from pipelines.datasets.croissant import croissant
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import LocalFolder


def test_files_are_named_as_they_lie(version_root: tuple[DatasetVersion, LocalFolder]) -> None:
    version, root = version_root
    described = json.loads(json.dumps(croissant(version, str(root.path), licence="https://cc.org")))
    assert (described["name"], described["license"]) == (version.name, "https://cc.org")
    *shards, pictures, scenes = described["distribution"]
    assert len(shards) == len(version.shards)
    for shard in shards:
        assert shard["sha256"] == sha256_of_file(root.path / shard["contentUrl"])
        assert shard["contentSize"] == f"{(root.path / shard['contentUrl']).stat().st_size} B"
        with tarfile.open(shard["contentUrl"]) as tar:
            names = tar.getnames()
        counts = [len(fnmatch.filter(names, each["includes"])) for each in (pictures, scenes)]
        assert min(counts) > 0
        assert sum(counts) == len(names)
    assert [each["@id"] for each in pictures["containedIn"]] == [each["@id"] for each in shards]
    assert "license" not in croissant(version, "s3://sets")
