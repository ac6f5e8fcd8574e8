from pathlib import Path

import pytest

from jobs.locations import open_folder
from tests.settings import embedded_settings


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "gs://bucket", "://x"])
def test_a_uri_without_a_bucket_is_no_folder_here(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_folder(uri, embedded_settings(tmp_path))
