from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.reports.dataset_gallery import write_gallery
from pipelines.sources.pairing import Refused
from pipelines.sources.scan import scan
from pipelines.store.folders import LocalFolder
from tests.conftest import make_version

Published = tuple[DatasetVersion, LocalFolder]


class Tags(HTMLParser):
    """Collects pictures and text, and complains of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_variants_groups_parameters_and_sizes(
    version_root: Published, tmp_path: Path
) -> None:
    version, root = version_root
    refused = (Refused(path="/a/<b>.png", reason="cut & short"),)
    shown = version.model_copy(update={"refused": refused})
    write_gallery(shown, root, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    # Three scenes of 2 + 6 pictures, two groups of 2 anchors, 3 + 3 positives, 6 negatives.
    assert len(tags.sources) == 3 * 8 + 2 * 14
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    for text in (
        version.digest, "VI low light: gamma", "IR stripe noise: sigma level", "VI positives",
        "Shard, MiB", "Stored size by image", "/a/<b>.png", "cut & short",
    ):  # fmt: skip
        assert text in tags.text, text
    assert "http" not in page


def test_native_files_are_called_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abcd":
        for folder, stem, shape in (
            ("VI_enhanced", name, (16, 20, 3)),
            ("IR_enhanced", name, (16, 20)),
            ("VI", f"{name}_Blur", (16, 20, 3)),
            ("IR", f"{name}_SN", (16, 20)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture = rng.integers(0, 256, shape, np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{stem}.png"), picture)
    config = DatasetConfig(name="native", shard=ShardConfig())
    root = LocalFolder(tmp_path / "out")
    version = make_version(root, config, list(scan(tmp_path, dataset="h").scenes))
    write_gallery(version, root, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("native file") >= 6
