import io

import numpy as np
import pyarrow as pa
import pytest

from pipelines.datasets.row_strips import decode_rows, encode_strips


def picture(height: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, 9, channels), np.uint8)


@pytest.mark.parametrize("height", [1, 31, 32, 33, 100, 40_000])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_reader_sees_an_npy(height: int, channels: int) -> None:
    image = picture(height, channels)
    raw = pa.input_stream(pa.BufferReader(encode_strips(image)), compression="zstd").read()
    assert np.array_equal(np.load(io.BytesIO(raw)), image)


@pytest.mark.parametrize("height", [1, 33, 100, 40_000])
def test_rows_are_rows_and_read_no_more_than_they_need(height: int) -> None:
    image = picture(height)
    data = encode_strips(image)
    first, end = height // 2, height // 2 + 5
    read = []

    def read_at(offset: int, size: int) -> bytes:
        read.append(min(size, len(data) - offset))
        return data[offset : offset + size]

    part = decode_rows(read_at, (first, end), shape=image.shape)
    assert part is not None
    assert np.array_equal(part, image[first:end])
    # The pixels come with the last read: at most two strips of 32 rows.
    assert read[-1] <= 2 * 32 * 27 + 100


def test_other_data_has_no_strips() -> None:
    data = pa.Codec("zstd").compress(picture(8).tobytes(), asbytes=True)
    assert decode_rows(lambda at, size: data[at : at + size], (0, 4), shape=(8, 8, 3)) is None
