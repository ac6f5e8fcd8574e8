"""No-reference quality through pyiqa, an extra: `pip install '.[noreference]'`.

pyiqa fetches weights on first use, which makes it the outside world: this file alone imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Our name -> pyiqa's. PI is better when lower, the others when higher.
NAMES = {"MUSIQ": "musiq", "PI": "pi", "TReS": "tres"}

# B×3×H×W in [0, 1] -> B scores.
Score = Callable[[Any], Any]


def load_scores(device: str = "cpu") -> dict[str, Score]:
    """Build the three metrics with their published weights.

    Raises ValueError when the package is not installed or weights can be neither found nor fetched.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise ValueError(
            f"no-reference metrics need pyiqa ({error}); install it with "
            "pip install '.[noreference]' (it brings torchvision)"
        ) from error
    scores = {}
    for name, key in NAMES.items():
        try:
            scores[name] = pyiqa.create_metric(key, device=device)
        except Exception as error:
            # Whatever its downloader raises: URL, socket, hub and file errors share no parent.
            raise ValueError(
                f"the weights of {name} are not there and could not be fetched ({error}); run "
                "once on a machine with a network and copy its torch hub cache "
                "(TORCH_HOME/hub/pyiqa) here"
            ) from error
    return scores
