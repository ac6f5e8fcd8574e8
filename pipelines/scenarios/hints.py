"""The hints of `models.system`: a degradation record as the tensors that a fuser takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degradations.chain import Applied
from degradations.operators import operator_numbers, task_number

Chain = Sequence[Applied]


def hints_of(names: Sequence[str], *, vi: Chain, ir: Chain) -> dict[str, Tensor]:
    """The named hints of one pair, a batch of 1, from what each camera suffers.

    Raises ValueError, naming the hint, for a degradation that it cannot express.
    """
    return {name: _hint(name, vi if name.startswith("vi") else ir) for name in names}


def _hint(name: str, chain: Chain) -> Tensor:
    try:
        match name:
            case "vi_op" | "ir_op":
                _check_strengths(chain)
                return torch.from_numpy(operator_numbers(chain))[None]  # 1 3
            case "vi_task":
                return torch.tensor([task_number("vi", chain)])
            case "ir_task":
                return torch.tensor([task_number("ir", chain)])
    except ValueError as error:
        raise ValueError(f"hint {name}: {error}") from error
    raise ValueError(f"no hint {name!r}; there are: vi_op, ir_op, vi_task, ir_task")


def _check_strengths(chain: Chain) -> None:
    for applied in chain:
        if not applied.params:
            raise ValueError(
                f"{applied.name} without its strength, of which the operator is made; write it as in "
                "noise:sigma=14 or blur:sigma=2"
            )
