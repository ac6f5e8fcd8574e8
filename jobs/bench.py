"""python -m jobs.bench data: measure the speed that is promised, as ratios taken in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from infra.settings import read_settings
from jobs.bench_data import bench_data
from jobs.console import run_command


def _data(arguments: argparse.Namespace) -> None:
    bench_data(read_settings(work=arguments.work), smoke=arguments.smoke)


_BENCHES: dict[str, Callable[[argparse.Namespace], None]] = {"data": _data}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description=__doc__)
    parser.add_argument("bench", choices=list(_BENCHES))
    parser.add_argument("--smoke", action="store_true", help="the same code on a few small scenes")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    bench = sys.argv[1] if len(sys.argv) > 1 else ""
    run_command(_BENCHES.get(bench, _data), parser)


if __name__ == "__main__":
    main()
