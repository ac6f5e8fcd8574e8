"""The service in this process: it makes what jobs.fuse makes, and a refusal is one line in words."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from infra.cluster.serving import BusyError, UnavailableError
from jobs.fuse.run import FuseTask, fuse_one
from jobs.serve.limits import Limits, sha256_of
from jobs.serve.model import ServedModel
from jobs.serve.web import web_app
from models.system import FuseOptions
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import Fusing
from pipelines.bundles.pretrained import find_pretrained
from pipelines.checks.depth import WindowRule
from pipelines.sources.pictures import encode_jpeg
from tests.jobs.serve.in_process import InThisProcess
from tests.jobs.serve.pictures import decoded, noise, pair
from tests.settings import embedded_settings

LIMITS = Limits(most_pixels=64 * 64, most_bytes=40_000)


@pytest.fixture(scope="module")
def client(model: ServedModel) -> Iterator[TestClient]:
    with TestClient(web_app(InThisProcess(model), LIMITS)) as found:
        yield found


def fused_by_jobs_fuse(bundle: Path, folder: Path, files: dict[str, bytes], **rules: Any) -> bytes:
    for camera, data in files.items():
        (folder / camera).write_bytes(data)
    out, paths = folder / "out.png", (str(folder / "vi"), str(folder / "ir"))
    fusing, settings = Fusing(bundle=read_bundle(bundle)), embedded_settings(folder)
    fuse_one(fusing, settings, FuseTask(*paths, str(out), windows=rules))
    return out.read_bytes()


def test_a_pair_is_fused_as_the_command_does(
    client: TestClient, tiny_bundle: Path, tmp_path: Path
) -> None:
    answer = client.post("/fuse", files=pair())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    # Its name, not where it lies: the service may be others'.
    assert answer.headers["x-model"] == tiny_bundle.name
    assert float(answer.headers["x-seconds"]) > 0
    assert answer.content == fused_by_jobs_fuse(tiny_bundle, tmp_path, pair())


def test_what_the_model_sees_is_in_a_header(client: TestClient, tmp_path: Path) -> None:
    assert "x-sees" not in client.post("/fuse", files=pair()).headers, "the tiny model has no types"
    small = ServedModel("small", FuseOptions(), embedded_settings(tmp_path))
    with TestClient(web_app(InThisProcess(small), LIMITS)) as other:
        answer = other.post("/fuse", files=pair())
    seen = json.loads(answer.headers["x-sees"])
    # Pictures of noise.
    assert [*seen["ir"]] == ["random_noise"]
    [(name, share)] = seen["vi"].items()
    assert name in read_bundle(find_pretrained("small")).types.means["vi"]
    assert 0 < share <= 1


@pytest.mark.parametrize("rule", ["", "28000:31000", "1%:99%", "full"])
def test_16_bits_stay_16_by_the_rule_of_the_form(
    client: TestClient, tiny_bundle: Path, tmp_path: Path, rule: str
) -> None:
    levels = noise((24, 32), np.uint16, suffix=".tiff")
    files = pair() | {"ir": levels}
    answer = client.post("/fuse", files=files, data={"ir_window": rule})
    parsed = WindowRule.parse(rule or None, "ir_window")
    assert answer.content == fused_by_jobs_fuse(tiny_bundle, tmp_path, files, ir=parsed)
    assert decoded(answer.content).dtype == np.uint16


def test_a_jpeg_for_who_accepts_one_only(client: TestClient) -> None:
    png = client.post("/fuse", files=pair())
    jpeg = client.post("/fuse", files=pair(), headers={"Accept": "image/jpeg"})
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert jpeg.content == encode_jpeg(decoded(png.content)[:, :, ::-1])
    both = client.post("/fuse", files=pair(), headers={"Accept": "image/jpeg, image/png"})
    assert both.content == png.content


@pytest.mark.parametrize(
    ("files", "fields", "status", "message"),
    [
        ({"vi": noise((24, 32, 3))}, {}, 422, "ir: field required; send two files"),
        (pair() | {"ir": b"a letter"}, {}, 415, "ir: not an image that can be decoded"),
        (pair(65, 64), {}, 413, "vi: claims 4160 pixels, 4096 are the most"),
        (pair() | {"ir": noise((24, 40))}, {}, 422, "VI is 32x24 but IR is 40x24; register the"),
        (pair() | {"ir": noise((24, 32, 3))}, {}, 422, "ir: infrared picture is in .false. colour"),
        (pair() | {"ir": pair()["ir"][:-40]}, {}, 422, "ir: not an image .*cut short"),
        (pair(8, 32), {}, 422, "images must be at least 16 pixels a side, got 8×32"),
        (pair(), {"degradation": "ir:noise:sigma=14"}, 422, "takes no hints; leave degradation"),
        (pair(), {"degradation": "ir:dust"}, 422, "dust"),
        (pair(), {"ir_window": "9:1"}, 422, "ir_window 9:1: write LOW:HIGH in levels"),
    ],
)
def test_a_refusal_is_one_line_in_words(
    client: TestClient, files: Any, fields: Any, status: int, message: str
) -> None:
    answer = client.post("/fuse", files=files, data=fields)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert re.search(message, detail), detail
    assert "\n" not in detail
    assert "--" not in detail


def test_more_bytes_than_the_limit_are_refused_declared_or_not(client: TestClient) -> None:
    large = pair() | {"ir": b"x" * LIMITS.most_bytes}
    declared = client.post("/fuse", files=large)
    request = client.build_request("POST", "/fuse", files=large)

    def stream() -> Iterator[bytes]:
        yield request.read()

    kind = {"Content-Type": request.headers["content-type"]}
    streamed = client.post("/fuse", content=stream(), headers=kind)
    for answer in (declared, streamed):
        assert answer.status_code == 413
        assert "larger than 40000 bytes" in answer.json()["detail"]


def test_the_token_is_asked_for_where_there_is_one(model: ServedModel) -> None:
    limits = Limits(token_sha256=sha256_of("open sesame"))
    with TestClient(web_app(InThisProcess(model), limits)) as client:
        for wrong in ({}, {"Authorization": "Bearer open"}, {"Authorization": "Basic open sesame"}):
            assert client.post("/fuse", files=pair(), headers=wrong).status_code == 401
            assert client.get("/model", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer open sesame"}
        assert client.post("/fuse", files=pair(), headers=right).status_code == 200
        # What a load balancer and a browser ask before anybody gave a token.
        for path in ("/", "/healthz", "/readyz", "/docs", "/static/index.html"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BusyError(), 429, "too many pairs are waiting"),
        (UnavailableError("its worker died"), 503, "its worker died; try again"),
    ],
)
def test_a_full_queue_and_a_lost_replica_say_when_to_come_again(
    model: ServedModel, error: Exception, status: int, message: str
) -> None:
    with TestClient(web_app(InThisProcess(model, error), LIMITS)) as client:
        answer = client.post("/fuse", files=pair())
        assert answer.status_code == status
        assert message in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503


def test_nothing_is_fetched_from_another_host(client: TestClient) -> None:
    for path in ("/", "/docs"):
        page = client.get(path).text
        places = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
        assert places
        assert not [place for place in places if "//" in place], path
        for place in places:
            if not place.startswith(("#", "data:")):
                assert client.get(place).status_code == 200, place
    described = client.get("/openapi.json").json()["paths"]
    assert described.keys() == {"/fuse", "/model", "/healthz", "/readyz"}
    assert described["/fuse"]["post"]["responses"].keys() >= {"200", "413", "415", "422", "429"}
