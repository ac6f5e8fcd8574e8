"""How often the promotion gate errs, on simulated evaluations."""

from __future__ import annotations

from jobs.console import print_line, progress
from pipelines.promotion.characteristics import CASES, pass_rate
from pipelines.promotion.gate import GateConfig

_NUM_SCENES = (20, 40, 80)


def bench_gate(*, num_trials: int, noise: float) -> None:
    """Print the share of evaluations that pass, by the model's true change and the number of scenes."""
    config = GateConfig(num_resamples=1000)
    rates: dict[tuple[str, int], float] = {}
    with progress("cells", len(CASES) * len(_NUM_SCENES)) as advance:
        for case in CASES:
            for count in _NUM_SCENES:
                rates[case, count] = pass_rate(
                    case, count, num_trials=num_trials, noise=noise, config=config
                )
                advance(len(rates))
    print_line(
        f"{'passes of ' + str(num_trials):30}" + "".join(f"{n:>5} scenes" for n in _NUM_SCENES)
    )
    for case in CASES:
        cells = (f"{rates[case, count]:11.0%} " for count in _NUM_SCENES)
        print_line(f"{case:30}" + "".join(cells))
