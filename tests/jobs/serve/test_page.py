"""The page in a real browser: what a person with a mouse, or with a keyboard, does and is told."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from jobs.serve.limits import Limits, sha256_of
from jobs.serve.model import ServedModel
from jobs.serve.web import web_app
from tests.jobs.serve.in_process import InThisProcess, listening
from tests.jobs.serve.pictures import noise, pair

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (apt-get install chromium)"),
]
WAIT_MS = 300_000
TOKEN = "open sesame"


@pytest.fixture(scope="module")
def url(model: ServedModel) -> Iterator[str]:
    app = web_app(InThisProcess(model), Limits(token_sha256=sha256_of(TOKEN)))
    with listening(app) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox to be in; the page is ours.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page, its token given. Fails where it asks another host, or breaks its own policy."""
    opened = browser.new_page()
    opened.set_default_timeout(WAIT_MS)
    asked: list[str] = []
    wrong: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: wrong.append(line.text) if "Policy" in line.text else None)
    opened.goto(url)
    assert opened.locator("#model").text_content()
    opened.get_by_label("Token of this service").fill(TOKEN)
    opened.get_by_label("Token of this service").press("Tab")
    opened.get_by_text("dspfusion, on cpu").wait_for()
    yield opened
    assert not [found for found in asked if not found.startswith((url, "blob:", "data:"))]
    assert not wrong
    opened.close()


def as_file(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def choose(page: Any, files: dict[str, tuple[str, bytes]]) -> None:
    for camera, (name, data) in files.items():
        page.locator(f"#{camera}").set_input_files(as_file(name, data))


def drop(page: Any, files: dict[str, bytes], target: str) -> None:
    page.evaluate(
        """([files, target]) => {
            const dropped = new DataTransfer();
            for (const [name, levels] of files)
                dropped.items.add(new File([new Uint8Array(levels)], name));
            const event = new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true});
            document.querySelector(target).dispatchEvent(event);
        }""",
        [[[name, [*data]] for name, data in files.items()], target],
    )


def test_files_are_dropped_compared_and_downloaded(page: Any, url: str, tmp_path: Path) -> None:
    # By their names, wherever they fall.
    drop(page, {"a_ir.png": pair()["ir"], "a_vi.png": pair()["vi"]}, "footer")
    page.get_by_text("a_vi.png, 32 × 24").wait_for()
    page.get_by_text("a_ir.png, 32 × 24").wait_for()
    page.get_by_role("button", name="Fuse", exact=True).press("Enter")
    page.get_by_role("heading", name="Fused").wait_for()
    assert page.evaluate("document.activeElement.id") == "result-title"
    assert page.locator("#version").text_content().startswith("bundle")
    assert "s to fuse" in page.locator("#seconds").text_content()
    assert page.locator("#seen").text_content() == "not known of this model"
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "a_vi_fused.png"
    download.value.save_as(tmp_path / "fused.png")
    header = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.post(f"{url}/fuse", files=pair(), headers=header, timeout=60)
    assert (tmp_path / "fused.png").read_bytes() == answer.content
    slider = page.get_by_label("Fused from the left, to")
    for _ in range(10):
        slider.press("ArrowRight")
    clip = page.locator("#over").evaluate("image => getComputedStyle(image).clipPath")
    assert re.search(r"\b40%", clip), clip
    page.get_by_label("against").select_option("ir")
    assert page.locator("#under").get_attribute("alt") == "infrared picture"


def test_mistakes_are_told_in_words(page: Any) -> None:
    fuse, error = page.get_by_role("button", name="Fuse", exact=True), page.get_by_role("alert")
    fuse.click()
    assert error.text_content() == "Choose a picture of the visible camera first."
    for files, told in (
        ({"vi": ("a.png", b"a letter"), "ir": ("b.png", pair()["ir"])}, "vi: not an image"),
        (
            {"vi": ("a.png", pair()["vi"]), "ir": ("b.png", noise((24, 40)))},
            "VI is 32x24 but IR is 40x24",
        ),
    ):
        choose(page, files)
        fuse.click()
        page.get_by_text(told).wait_for()
        assert told in error.text_content()
    page.get_by_label("Token of this service").fill("guessed")
    fuse.click()
    page.get_by_text("the token is missing or wrong").first.wait_for()


def test_16_bits_that_a_browser_does_not_show_are_fused(page: Any) -> None:
    levels = noise((24, 32), np.uint16, suffix=".tiff")
    choose(page, {"vi": ("a.png", pair()["vi"]), "ir": ("b.tiff", levels)})
    page.get_by_text("b.tiff; browsers do not show this kind").wait_for()
    page.get_by_text("Options").click()
    page.get_by_label("Infrared levels").fill("100:60000")
    page.get_by_role("button", name="Fuse", exact=True).click()
    page.get_by_role("heading", name="Fused").wait_for()


def test_frames_of_a_sequence_are_paired_by_name_and_leafed_through(page: Any) -> None:
    for camera, names in (("vi", ("2.png", "10.png")), ("ir", ("10.png", "2.png", "11.png"))):
        page.locator(f"#{camera}").set_input_files([as_file(n, pair()[camera]) for n in names])
    page.get_by_role("button", name="Fuse", exact=True).click()
    page.get_by_text("10, 2 of 2").wait_for()
    assert "1 of the files have no partner" in page.get_by_role("alert").text_content()
    page.get_by_role("button", name="Previous").click()
    assert page.locator("#frame").text_content() == "2, 1 of 2"


def test_an_example_in_dark_and_in_light(page: Any) -> None:
    page.get_by_role("button", name="night: low light, stripes").click()
    page.get_by_role("heading", name="Fused").wait_for()
    shades = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours = page.evaluate(
            "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
        )
        shades[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    assert shades["light"][0] > 600 > 200 > shades["light"][1]
    assert shades["dark"][0] < 200 < 600 < shades["dark"][1]
