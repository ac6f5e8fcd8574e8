"""What a camera suffers, as people say it at the command line: names, strengths, or plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError

from degradations.catalogue import CLEAN, Modality, find, is_known
from degradations.chain import Applied
from degradations.operators import AUTO
from jobs.console import print_line

# Of the observation model's degradations, as its papers call them.
_SHORT_NAMES = {"noise": "gaussian_noise", "blur": "gaussian_blur"}
# How people say it.
_WORDS = {
    "blur": r"blur\w*|defocus\w*|out of focus|shaky",
    "rain": r"rain\w*|drizzl\w*",
    "random_noise": r"nois\w+|grain\w*",
    "low_light": r"night\w*|dark\w*|dim|dusk|low[ -]light|under-?exposed",
    "over_exposure": r"over-?expos\w+|too bright|glar\w+|blind\w+",
    "haze": r"haz[ey]\w*|fog\w*|mist\w*|smog\w*|smok\w+",
    "low_contrast": r"low[ -]contrast|faint|flat|washed[ -]out",
    "stripe_noise": r"strip\w+|banding",
    "low_resolution": r"low[ -]resolution|coarse|pixelated",
}


def read_chains(texts: Sequence[str]) -> dict[str, list[Applied]]:
    """Degradations of the cameras that are told of, from `[CAMERA:]NAME[:PARAM=VALUE,…]`, in that order.

    Without a camera it is both; "clean" is none, "auto" what the model finds itself. "noise" and "blur" are
    the Gaussian ones, "low light" is `low_light`, and the beginning of a parameter's name will do:
    `noise:sigma=14`. Without any its strength is not known, as for prompts. Plain words will do, too, such
    as "hazy night": of what a camera may suffer the first is meant, and the rest is said to be left out.
    Raises ValueError for a camera, degradation or parameter that does not exist.
    """
    chains: dict[str, list[Applied]] = {}
    for text in texts:
        camera, _, rest = text.partition(":")
        if camera not in ("vi", "ir"):
            camera, rest = "", text
        cameras: tuple[Modality, ...] = ("vi", "ir")
        chosen = [each for each in cameras if camera in ("", each)]
        for each, chain in _of_cameras(text, rest, chosen).items():
            chains.setdefault(f"{each}_chain", []).extend(chain)
    return chains


def _of_cameras(text: str, rest: str, cameras: Sequence[Modality]) -> dict[Modality, list[Applied]]:
    name, _, assignments = rest.partition(":")
    if name == CLEAN:
        return {camera: [] for camera in cameras}
    if name == AUTO:
        return {camera: [Applied(name=AUTO, params={})] for camera in cameras}
    said = {} if assignments else {camera: _in_words(name, camera) for camera in cameras}
    if not any(_of_catalogue(name, camera) for camera in cameras) and any(said.values()):
        return {
            camera: [Applied(name=_first(text, camera, found), params={})]
            for camera, found in said.items()
            if found
        }
    return {camera: [_told(text, camera, name, assignments)] for camera in cameras}


def _in_words(said: str, camera: Modality) -> list[str]:
    """What a camera may suffer of what is said, in the order of the words."""
    places = {
        name: match.start()
        for name, pattern in _WORDS.items()
        if is_known(camera, name) and (match := re.search(rf"\b({pattern})\b", said.lower()))
    }
    return sorted(places, key=lambda name: places[name])


def _first(text: str, camera: Modality, names: Sequence[str]) -> str:
    rest = f"; {', '.join(names[1:])} is left out: a prompt says one thing" if names[1:] else ""
    print_line(f"  {text!r} is read as {camera}:{names[0]}{rest}")
    return names[0]


def _of_catalogue(name: str, camera: Modality) -> str | None:
    """The catalogue's name of a degradation, or None if it is not one of the camera's."""
    name = re.sub("[ -]", "_", name.strip().lower())
    name = name if is_known(camera, name) else _SHORT_NAMES.get(name, name)
    return name if is_known(camera, name) else None


def _told(text: str, camera: Modality, name: str, assignments: str) -> Applied:
    name = _of_catalogue(name, camera) or name
    degradation = find(camera, name)
    if not assignments:
        return Applied(name=name, params={})
    known = degradation.params_type.model_fields
    params = {}
    for key, _, value in (pair.partition("=") for pair in assignments.split(",") if pair):
        meant = [key] if key in known else [field for field in known if field.startswith(key)]
        params[meant[0] if len(meant) == 1 else key] = value
    # Which noise it was says nothing of how strong it is; the size of a blur's kernel little.
    for parameter, usual in (("seed", "0"), ("size_px", "21")):
        if parameter in known:
            params.setdefault(parameter, usual)
    try:
        checked = degradation.params_type.model_validate(params)
    except ValidationError as error:
        raise ValueError(
            f"--degradation {text}: {name} takes {', '.join(known)} ({error})"
        ) from error
    return Applied(name=name, params=checked.model_dump())
