import io

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from pipelines.datasets.shards.row_strips import decode_rows, encode_strips


def pictures(height: int, channels: int) -> dict[str, np.ndarray]:
    """Pictures that compress in all ways: noise, one value, repeated rows, slopes."""
    shape = (height, 90, channels)
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(height) // 3, np.arange(90) // 7) % 256
    return {
        "noise": rng.integers(0, 256, shape, np.uint8),
        "few values": rng.integers(0, 3, shape, np.uint8),
        "black": np.zeros(shape, np.uint8),
        "rows": np.broadcast_to(rng.integers(0, 256, (90, channels), np.uint8), shape),
        "slope": np.repeat(slope[..., None], channels, axis=2).astype(np.uint8),
    }


@pytest.mark.parametrize("height", [1, 31, 32, 33, 100, 5000])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_reader_sees_an_npy(height: int, channels: int) -> None:
    for name, image in pictures(height, channels).items():
        data = encode_strips(image)
        for raw in (
            zstandard.decompress(data),
            pa.input_stream(pa.BufferReader(data), compression="zstd").read(),
        ):
            assert np.array_equal(np.load(io.BytesIO(raw)), image), name


@pytest.mark.parametrize("height", [1, 33, 100, 5000])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_strip_can_be_decoded_alone(height: int, channels: int) -> None:
    for name, image in pictures(height, channels).items():
        data = encode_strips(image)
        for first in range(0, height, 20):
            part = decode_rows(
                lambda at, size, data=data: data[at : at + size],  # type: ignore[misc]
                len(data),
                (first, first + 20),
                shape=image.shape,
            )
            assert part is not None
            assert np.array_equal(part, image[first : first + 20]), name


@pytest.mark.parametrize("height", [1, 33, 100, 5000])
def test_rows_are_rows_and_read_no_more_than_they_need(height: int) -> None:
    image = pictures(height, 3)["noise"]
    data = encode_strips(image)
    first, end = height // 2, height // 2 + 5
    read = []

    def read_at(offset: int, size: int) -> bytes:
        read.append(min(size, len(data) - offset))
        return data[offset : offset + size]

    part = decode_rows(read_at, len(data), (first, end), shape=image.shape)
    assert part is not None
    assert np.array_equal(part, image[first:end])
    # The pixels come with the last read: at most two strips of 32 rows.
    assert read[-1] <= 2 * 32 * 270 + 100


def test_other_data_has_no_strips() -> None:
    data = pa.Codec("zstd").compress(pictures(8, 3)["noise"].tobytes(), asbytes=True)
    read_at = lambda at, size: data[at : at + size]  # noqa: E731
    assert decode_rows(read_at, len(data), (0, 4), shape=(8, 90, 3)) is None
