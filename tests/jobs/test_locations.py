import socket
from pathlib import Path

import pytest

from jobs.locations import open_folder
from tests.settings import embedded_settings


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "gs://bucket", "://x"])
def test_a_uri_without_a_bucket_is_no_folder_here(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_folder(uri, embedded_settings(tmp_path))


def test_a_store_that_is_not_there_is_said_before_anything_is_tried(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nothing answers, nobody else can
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        settings = embedded_settings(tmp_path).model_copy(update={"s3_endpoint_url": dead})
        with pytest.raises(ConnectionError, match=rf"no S3 store answers at {dead} .*ENDPOINT_URL"):
            open_folder("s3://bucket/prefix", settings)
