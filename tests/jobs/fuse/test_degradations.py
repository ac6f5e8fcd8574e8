"""`--degradation`, from words to chains."""

import pytest

from degradations.operators import AUTO_TASK, operator_numbers, task_names
from jobs.fuse.told import read_chains
from pipelines.scenarios.hints import hints_of


def numbers(*texts: str) -> dict[str, list[float]]:
    return {name: operator_numbers(chain).tolist() for name, chain in read_chains(texts).items()}


def test_without_a_camera_it_is_both() -> None:
    expected = pytest.approx([14 / 255, 0, 1])
    assert numbers("noise:sigma=14") == {"vi_chain": expected, "ir_chain": expected}
    assert numbers("ir:gaussian_noise:sigma_level=14") == {"ir_chain": expected}


def test_several_are_one_after_the_other() -> None:
    found = numbers("blur:sigma=2", "noise:sigma=8", "ir:low_resolution:factor=4")
    assert found["vi_chain"] == pytest.approx([8 / 255, 2, 1])
    assert found["ir_chain"] == pytest.approx([2 / 255, 2, 4])


def test_a_camera_may_be_said_to_be_clean() -> None:
    assert read_chains(["vi:clean", "ir:noise:sigma=3"])["vi_chain"] == []
    assert read_chains([]) == {}
    found_out = read_chains(["vi:auto", "ir:stripe_noise:sigma=5,column=6"])
    assert int(hints_of(("vi_task",), vi=found_out["vi_chain"], ir=())["vi_task"]) == AUTO_TASK


def test_plain_words_are_prompts_and_no_operators() -> None:
    told = read_chains(["vi:Low light", "ir:stripe-noise"])
    tasks = hints_of(("vi_task", "ir_task"), vi=told["vi_chain"], ir=told["ir_chain"])
    assert [task_names("vi")[int(tasks["vi_task"])], task_names("ir")[int(tasks["ir_task"])]] == [
        "low_light",
        "stripe_noise",
    ]
    blurred = read_chains(["blur"])["vi_chain"]
    with pytest.raises(ValueError, match=r"hint vi_op: blur without its strength.*blur:sigma=2"):
        hints_of(("vi_op",), vi=blurred, ir=())


@pytest.mark.parametrize(
    ("text", "vi", "ir", "left_out"),
    [
        ("hazy night", "haze", None, "low_light"),
        ("a dark street in the fog", "low_light", None, "haze"),
        ("noisy and striped", "random_noise", "random_noise", "stripe_noise"),
        ("vi:foggy", "haze", None, None),
        ("ir:faint", None, "low_contrast", None),
        ("overexposed", "over_exposure", None, None),
    ],
)
def test_people_say_it_in_words_of_their_own(
    text: str,
    vi: str | None,
    ir: str | None,
    left_out: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = read_chains([text])
    expected = {f"{c}_chain": [n] for c, n in (("vi", vi), ("ir", ir)) if n}
    assert {key: [one.name for one in chain] for key, chain in told.items()} == expected
    said = capsys.readouterr().out
    assert f"{text!r} is read as" in said
    assert left_out is None or f"{left_out} is left out" in said
    assert left_out or "left out" not in said
    chains = {camera: told.get(f"{camera}_chain", ()) for camera in ("vi", "ir")}
    tasks = hints_of(("vi_task", "ir_task"), vi=chains["vi"], ir=chains["ir"])
    assert task_names("vi")[int(tasks["vi_task"])] == (vi or "clean")
    assert task_names("ir")[int(tasks["ir_task"])] == (ir or "clean")


def test_a_name_of_the_catalogue_is_that_kernel() -> None:
    assert [applied.name for applied in read_chains(["vi:blur:sigma=2"])["vi_chain"]] == ["blur"]
    assert [one.name for one in read_chains(["ir:blur:sigma=2"])["ir_chain"]] == ["gaussian_blur"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fog:beta=1", "no degradation 'fog'"),
        ("sleepy", "no degradation 'sleepy' for modality 'vi'; known: blur, rain"),
        ("ir:rain", "no degradation 'rain' for modality 'ir'"),
        ("vi:", "no degradation ''"),
        ("noise:s=14", "gaussian_noise takes sigma_level, seed"),
        ("noise:level=14", "gaussian_noise takes sigma_level, seed"),
        ("noise:sigma=-1", "greater than or equal to 0"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_chains([text])
