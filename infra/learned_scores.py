"""Scores by networks and natural statistics through pyiqa, an extra: `pip install '.[scores]'`.

pyiqa fetches weights on first use, which makes it the outside world: this file alone imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

# Our name -> pyiqa's. LPIPS and PI are better when lower, the others when higher.
NAMES = {"LPIPS_target": "lpips", "MUSIQ": "musiq", "PI": "pi", "TReS": "tres"}
# The files of weights that pyiqa 0.1.16 opens, below torch's hub folder (TORCH_HOME/hub).
WEIGHTS = {
    "LPIPS_target": ("checkpoints/alexnet-owt-7be5be79.pth", "pyiqa/LPIPS_v0.1_alex-df73285e.pth"),
    "MUSIQ": ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
    "PI": ("pyiqa/NRQM_model.mat", "pyiqa/niqe_modelparameters.mat"),
    "TReS": ("checkpoints/resnet50-0676ba61.pth", "pyiqa/tres_koniq-f0502926.pth"),
}

# B×3×H×W in [0, 1] -> B scores; LPIPS_target takes the target, too.
Score = Callable[..., Any]


def load_scores(names: Sequence[str], device: str = "cpu") -> Mapping[str, Score]:
    """Build scores with their published weights, which pyiqa fetches if it has a network.

    A process builds the same ones once. Raises ValueError when the package cannot be imported, or with
    the names of the files when weights can be neither found nor fetched.
    """
    return _load(tuple(names), device)


@lru_cache(maxsize=1)
def _load(names: tuple[str, ...], device: str) -> Mapping[str, Score]:
    if not names:
        return {}
    try:
        import pyiqa
    except ImportError as error:
        raise ValueError(
            f"{', '.join(names)}: pyiqa is needed ({error}); install it with pip install '.[scores]' "
            "(it brings torchvision)"
        ) from error
    except RuntimeError as error:
        # What torchvision raises when its operators do not load.
        raise ValueError(
            f"pyiqa is there, but its torchvision does not work with this torch ({error}); install "
            "the torchvision that was built for it: for torch without CUDA that is the one of "
            "PyTorch's own index for CPUs, not PyPI's"
        ) from error
    scores = {}
    for name in names:
        try:
            scores[name] = pyiqa.create_metric(NAMES[name], device=device)
        except Exception as error:
            # Whatever its downloader and readers raise: URL, socket, pickle and file errors share
            # no parent.
            raise ValueError(_without_weights(name, error)) from error
    return scores


def _without_weights(name: str, error: Exception) -> str:
    """Which files are missing, and how they get here; or that one is damaged."""
    import torch

    hub = Path(torch.hub.get_dir())
    missing = [file for file in WEIGHTS[name] if not (hub / file).is_file()]
    if not missing:
        files = ", ".join(str(hub / file) for file in WEIGHTS[name])
        return f"the weights of {name} cannot be read ({error}); delete {files} and download them again"
    return (
        f"the weights of {name} are not there and could not be fetched ({error}): in {hub} "
        f"{', '.join(missing)} is missing; run the same command once on a machine with a network "
        "and copy its hub folder here (TORCH_HOME says where it is)"
    )
