"""python -m jobs.bench data|plan|model|metrics|train: measure what is promised, as ratios of one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from infra.settings import read_settings
from jobs.console import run_command


def _data(arguments: argparse.Namespace) -> None:
    from jobs.bench.shard_factory import bench_data

    bench_data(read_settings(work=arguments.work), smoke=arguments.smoke)


def _plan(arguments: argparse.Namespace) -> None:
    from jobs.bench.planner import bench_plan

    bench_plan(
        read_settings(work=arguments.work),
        scenes=arguments.scenes,
        recipe=arguments.recipe,
        num_planned=arguments.num_planned,
        smoke=arguments.smoke,
    )


def _model(arguments: argparse.Namespace) -> None:
    # The plain build lies with the tests that hold it; nothing but this bench needs it.
    from jobs.bench.model_speed import REAL_PAIRS, bench_model, print_own_peak

    if arguments.peak:
        part, side = arguments.peak
        print_own_peak(arguments.system, part, side, crop_px=arguments.crop)
        return
    bench_model(
        arguments.system,
        arguments.parts,
        repeats=arguments.repeats,
        crop_px=arguments.crop,
        pairs=arguments.pairs or REAL_PAIRS,
    )


def _metrics(arguments: argparse.Namespace) -> None:
    from jobs.bench.metric_speed import bench_metrics

    bench_metrics(repeats=arguments.repeats, batch_size=arguments.batch)


def _train(arguments: argparse.Namespace) -> None:
    from jobs.bench.training_loop import bench_train

    bench_train(read_settings(work=arguments.work), smoke=arguments.smoke)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    data = benches.add_parser("data", help="shards: generation, reuse, size, batches")
    data.add_argument("--smoke", action="store_true", help="the same code on a few small scenes")
    data.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    data.set_defaults(run=_data)
    plan = benches.add_parser("plan", help="the forecast against runs; a plan of a million scenes")
    plan.add_argument("--scenes", help="name of a scene index (default: 64 scenes rendered here)")
    plan.add_argument("--recipe", default="paper", help="dataset recipe (%(default)s)")
    plan.add_argument(
        "--num-planned", type=int, default=1_000_000, help="scenes of the simulation (%(default)s)"
    )
    plan.add_argument("--smoke", action="store_true", help="the same code on a few small scenes")
    plan.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    plan.set_defaults(run=_plan)
    model = benches.add_parser("model", help="networks against a plain build of the same maths")
    parts = ["inference", "bf16", "stage1", "stage2"]
    choices = [*parts, "compiled"]  # It compiles for minutes, so only who asks for it waits.
    model.add_argument("--system", default="dspfusion", help="default: %(default)s")
    model.add_argument("--parts", nargs="+", choices=choices, default=parts)
    model.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    model.add_argument("--crop", type=int, default=224, help="px of a training crop (%(default)s)")
    model.add_argument(
        "--pairs",
        type=Path,
        metavar="DIR",
        help="folder with vi/ and ir/ for the error of bf16 (default: MSRS val of ../shared/data)",
    )
    model.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    model.set_defaults(run=_model)
    metrics = benches.add_parser("metrics", help="metrics against a plain build of the same maths")
    metrics.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    metrics.add_argument("--batch", type=int, default=2, help="pictures at once (%(default)s)")
    metrics.set_defaults(run=_metrics)
    train = benches.add_parser("train", help="the loop against bare steps, 2 workers against 1")
    train.add_argument("--smoke", action="store_true", help="the same code on a few tiny steps")
    train.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    train.set_defaults(run=_train)
    run_command(lambda arguments: arguments.run(arguments), parser)


if __name__ == "__main__":
    main()
