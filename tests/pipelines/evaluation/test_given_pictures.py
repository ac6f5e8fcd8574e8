"""Pictures of programs that we do not have: taken back for every scenario, refused by name."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from models import SYSTEMS
from models.metrics import measurable, measure
from pipelines.bundles.export import Bundle
from pipelines.evaluation.baselines import fuse_laplacian, source_average
from pipelines.evaluation.given_pictures import find_given, given_pictures
from pipelines.evaluation.measuring import CaseMeasurer, Measurement, measure_case
from pipelines.scenarios.degraded_pairs import Case, cases_of, degraded_pair
from pipelines.scenarios.table import CLEAN_SCENARIO, find_scenario
from pipelines.sources.layouts import Layout
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scan import ScanRules, scan
from tests.pipelines.evaluation.test_exported_pairs import export

SIZE = (44, 48)
BLUR = "vi_blur"
SCENARIOS = [CLEAN_SCENARIO, find_scenario(BLUR)]
VAL = ScanRules(layout=Layout(split="val"))


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for camera, channels in (("vi", 3), ("ir", 1)):
            image = rng.integers(0, 256, (*SIZE, channels), dtype=np.uint8)
            write(tmp_path / "pairs" / camera / f"{name}.png", image)
    return cases_of(list(scan(tmp_path / "pairs", dataset="tiny", rules=VAL).scenes), SCENARIOS)


@pytest.fixture
def method(cases: list[Case], tmp_path: Path) -> Path:
    """A method that inverts the exported infrared picture; it names pictures after their sources."""
    export(cases, tmp_path / "out")
    folder = tmp_path / "method"
    for case in cases:
        exported = tmp_path / "out" / case.scenario.name / "ir" / f"{case.scene.id}.png"
        fused = 255 - cv2.imread(str(exported), cv2.IMREAD_UNCHANGED)
        write(folder / case.scenario.name / f"{case.scene.id[-1].upper()}.bmp", fused)
    shutil.copy(tmp_path / "out" / "manifest.json", folder)
    return folder


@pytest.fixture
def restored(cases: list[Case], tmp_path: Path) -> Path:
    """A restorer that mirrors both exported pictures."""
    export(cases, tmp_path / "out")
    folder = tmp_path / "restored"
    for case in cases:
        for camera in ("vi", "ir"):
            name = f"{case.scenario.name}/{camera}/{case.scene.id}.png"
            image = cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED)
            write(folder / name, image[:, ::-1])
    shutil.copy(tmp_path / "out" / "manifest.json", folder)
    return folder


def test_a_methods_pictures_are_measured_in_every_scenario(cases: list[Case], method: Path) -> None:
    given = find_given("method", "inverse", method, cases, seed=4)
    names = measurable(*SIZE, ["VIF", "Qabf", "MI", "PSNR_target"])
    bundle = Bundle(source="none", model=SYSTEMS[0].tiny(), weights=b"")
    measurement = Measurement(bundle=bundle, scenarios=(), given=(given,), metrics=names, seed=4)
    measurer = CaseMeasurer(measurement, {"average": source_average})
    for case in cases:
        average, inverse = measure_case(case, measurer)
        assert (average["method"], inverse["method"]) == ("average", "inverse")
        assert inverse["scenario"] == case.scenario.name
        assert np.isnan(inverse["seconds"])
        pair = degraded_pair(case, seed=4)
        fused = to_tensor(255 - pair.degraded.ir)
        expected = measure(fused, to_tensor(pair.vi), to_tensor(pair.ir), names)
        assert {name: inverse[name] for name in names} == {n: float(v) for n, v in expected.items()}


def test_restored_sources_are_fused_by_the_rules(cases: list[Case], restored: Path) -> None:
    given = find_given("restorer", "mirror", restored, cases, seed=4)
    baselines = ("average", "laplacian", "clahe")
    # What restores by itself is not asked to fuse restored pictures.
    assert given.methods(baselines) == ("mirror+average", "mirror+laplacian")
    degraded = degraded_pair(cases[1], seed=4).degraded
    average, laplacian = given_pictures(cases[1], degraded, [given], baselines)
    vi, ir = (to_tensor(np.ascontiguousarray(x[:, ::-1])) for x in degraded[:2])
    np.testing.assert_allclose(average.fused, source_average(vi, ir).fused, atol=1e-6)
    assert laplacian.method == "mirror+laplacian"
    luma = cv2.cvtColor(np.ascontiguousarray(degraded.vi[:, ::-1]), cv2.COLOR_RGB2GRAY) / 255
    expected = fuse_laplacian(luma.astype(np.float32), ir[0, 0].numpy())
    assert abs(float(laplacian.fused.mean()) - float(np.clip(expected, 0, 1).mean())) < 0.1


def test_a_restorer_of_one_camera_leaves_the_other_as_it_is(
    cases: list[Case], restored: Path
) -> None:
    for scenario in ("clean", BLUR):
        shutil.rmtree(restored / scenario / "ir")
    given = find_given("restorer", "mirror", restored, cases, seed=4)
    degraded = degraded_pair(cases[1], seed=4).degraded
    (average,) = given_pictures(cases[1], degraded, [given], ["average"])
    vi = to_tensor(np.ascontiguousarray(degraded.vi[:, ::-1]))
    np.testing.assert_allclose(
        average.fused, source_average(vi, to_tensor(degraded.ir)).fused, atol=1e-6
    )


def test_a_partial_set_is_refused_by_name(cases: list[Case], method: Path, restored: Path) -> None:
    (method / BLUR / "B.bmp").unlink()
    with pytest.raises(ValueError, match=r"no picture for 1 of 2 scenes.*first is tiny-val-b"):
        find_given("method", "inverse", method, cases, seed=4)
    shutil.rmtree(method / BLUR)
    with pytest.raises(ValueError, match=r"lacks 1 of 2 folders: vi_blur;.*scenarios=\[clean\]"):
        find_given("method", "inverse", method, cases, seed=4)
    shutil.rmtree(restored / BLUR / "ir")
    with pytest.raises(ValueError, match="lacks 1 of 4 folders: vi_blur/ir"):
        find_given("restorer", "mirror", restored, cases, seed=4)
    with pytest.raises(ValueError, match="has neither clean/vi/ nor clean/ir/"):
        find_given("restorer", "inverse", method, cases, seed=4)


def test_pictures_of_other_pairs_are_refused(
    cases: list[Case], method: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"pairs of seed 4, this .* seed 0; .*--set seed=4"):
        find_given("method", "inverse", method, cases, seed=0)
    weak = find_scenario("vi_blur@weak").model_copy(update={"name": BLUR})
    other = [Case(scene, CLEAN_SCENARIO if s == CLEAN_SCENARIO else weak) for scene, s in cases]
    with pytest.raises(ValueError, match="exported with another 'vi_blur'"):
        find_given("method", "inverse", method, other, seed=4)
    changed = [
        Case(case.scene.model_copy(update={"vi_sha256": "0"}), case.scenario) for case in cases
    ]
    with pytest.raises(ValueError, match="another scene 'tiny-val-a'"):
        find_given("method", "inverse", method, changed, seed=4)
    (method / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json: not the manifest"):
        find_given("method", "inverse", method, cases, seed=4)
    (method / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"lacks manifest\.json; copy that of the export"):
        find_given("method", "inverse", method, cases, seed=4)


def test_other_pixels_are_refused_when_they_are_measured(cases: list[Case], method: Path) -> None:
    given = find_given("method", "inverse", method, cases, seed=4)
    degraded = degraded_pair(cases[1], seed=4).degraded
    vi = degraded.vi.copy()
    vi[0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="tiny-val-a under vi_blur was exported with other pixels"):
        list(given_pictures(cases[1], degraded._replace(vi=vi), [given], []))


def test_pictures_of_another_size_are_refused(cases: list[Case], method: Path) -> None:
    write(method / BLUR / "A.bmp", np.zeros((44, 40), np.uint8))
    with pytest.raises(ValueError, match=r"A\.bmp is 40x44, and tiny-val-a is 48x44"):
        find_given("method", "inverse", method, cases, seed=4)


def test_a_flat_folder_is_of_the_clean_pairs(cases: list[Case], method: Path) -> None:
    flat = method / "clean"
    given = find_given("method", "inverse", flat, cases, seed=4)
    assert [*given.files] == ["clean"]
    with pytest.raises(ValueError, match="lacks 'clean'"):
        find_given("method", "inverse", flat, [c for c in cases if c.scenario.name == BLUR], seed=4)
    with pytest.raises(ValueError, match="no such folder"):
        find_given("method", "inverse", flat / "nowhere", cases, seed=4)


def test_one_picture_is_not_that_of_two_scenes(cases: list[Case], method: Path) -> None:
    scene = cases[0].scene
    both = [
        Case(scene.model_copy(update={"dataset": name, "id": f"{name}-a"}), CLEAN_SCENARIO)
        for name in ("one", "two")
    ]
    with pytest.raises(ValueError, match=r"A\.bmp would be the picture of both one-a and two-a"):
        find_given("method", "inverse", method / "clean", both, seed=4)
