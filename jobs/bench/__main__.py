"""python -m jobs.bench BENCH: measure what is promised, as ratios of one run.

python -m jobs.bench data      shards: generation, reuse, size, batches
python -m jobs.bench plan      the forecast against runs; a plan of a million scenes
python -m jobs.bench model     networks against a plain build of the same maths
python -m jobs.bench metrics   metrics against a plain build of the same maths
python -m jobs.bench train     the loop against bare steps, 2 workers against 1
python -m jobs.bench serve     the service against jobs.fuse, 2 replicas against 1, 50 clients
python -m jobs.bench gate      how often the promotion gate errs, on simulated evaluations
python -m jobs.bench roofline  the least that a training step can cost on an H100: counted, without one
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.command_line import Command, Verb, add_work, number, settings_of, whole_number
from jobs.placement import add_device

# Compiling takes minutes, so that part runs only where it is asked for.
_PARTS = ("inference", "bf16", "stage1", "stage2")
_ASKED_FOR = ("compiled", "compiled_bf16", "channels_first", "stage1_bf16", "stage2_bf16")


def _data(arguments: argparse.Namespace) -> None:
    from jobs.bench.shard_factory import bench_data

    bench_data(settings_of(arguments), smoke=arguments.smoke)


def _plan(arguments: argparse.Namespace) -> None:
    from jobs.bench.planner import bench_plan

    bench_plan(
        settings_of(arguments),
        scenes=arguments.scenes,
        recipe=arguments.recipe,
        num_planned=arguments.num_planned,
        smoke=arguments.smoke,
    )


def _model(arguments: argparse.Namespace) -> None:
    from jobs.bench.model_speed import REAL_PAIRS, Setup, bench_model, print_own_peak
    from models.devices import use_device

    setup = Setup(arguments.crop, use_device(arguments.device).type, arguments.batch)
    if arguments.peak:
        part, side = arguments.peak
        print_own_peak(arguments.system, part, side, setup)
        return
    bench_model(
        arguments.system,
        arguments.parts,
        repeats=arguments.repeats,
        setup=setup,
        pairs=arguments.pairs or REAL_PAIRS,
        profiled=arguments.profile,
    )


def _metrics(arguments: argparse.Namespace) -> None:
    from jobs.bench.metric_speed import bench_metrics

    bench_metrics(repeats=arguments.repeats, batch_size=arguments.batch)


def _train(arguments: argparse.Namespace) -> None:
    from jobs.bench.training_loop import bench_train
    from models.devices import use_device

    device = use_device(arguments.device).type
    bench_train(settings_of(arguments), smoke=arguments.smoke, device=device)


def _serve(arguments: argparse.Namespace) -> None:
    from jobs.bench.serving import bench_serve

    bench_serve(arguments.model, settings_of(arguments), smoke=arguments.smoke)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="small",
        help="as jobs.serve takes it (default: %(default)s)",
    )
    _add_smoke(parser)


def _roofline(arguments: argparse.Namespace) -> None:
    from jobs.bench.roofline import bench_roofline

    bench_roofline(arguments.recipes, batch_sizes=arguments.batch)


def _add_roofline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        default=["dspfusion_stage1_full_1gpu", "dspfusion_stage2_full_1gpu"],
        help="training recipes (default: DSPFusion's in the published size)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 4, 16, 32],
        help="samples of a step (default: %(default)s)",
    )


def _gate(arguments: argparse.Namespace) -> None:
    from jobs.bench.gate_errors import bench_gate

    bench_gate(num_trials=arguments.trials, noise=arguments.noise)


def _add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials",
        type=whole_number(1, 10**6),
        default=200,
        help="evaluations a cell (default: %(default)s)",
    )
    parser.add_argument(
        "--noise", type=number(0, 1e6), default=1.0, help="scales the noise (default: %(default)s)"
    )


def _add_smoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke", action="store_true", help="the same code on little data")
    add_work(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_smoke(parser)
    add_device(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", help="name of a scene index (default: 64 scenes rendered here)")
    parser.add_argument("--recipe", default="paper", help="dataset recipe (default: %(default)s)")
    parser.add_argument(
        "--num-planned",
        type=whole_number(1, 10**8),
        default=1_000_000,
        help="scenes of the simulation (default: %(default)s)",
    )
    _add_smoke(parser)


def _add_repeats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeats",
        type=whole_number(1, 1000),
        default=3,
        help="measurements a side (default: %(default)s)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--system", default="dspfusion", help="which networks (default: %(default)s)"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=[*_PARTS, *_ASKED_FOR],
        default=_PARTS,
        help=f"what to measure (default: {' '.join(_PARTS)})",
    )
    _add_repeats(parser)
    parser.add_argument(
        "--crop",
        type=whole_number(16, 8192),
        default=224,
        help="px of a training crop (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="DIR",
        help="folder with vi/ and ir/ for the error of bf16 (default: MSRS val of ../shared/data)",
    )
    parser.add_argument(
        "--batch", type=int, help="pairs or samples at once (default: 1 pair, 2 samples)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="the slowest kernels of the last part"
    )
    add_device(parser)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    _add_repeats(parser)
    parser.add_argument(
        "--batch",
        type=whole_number(1, 4096),
        default=2,
        help="pictures at once (default: %(default)s)",
    )


COMMAND = Command(
    "bench",
    __doc__,
    ["python -m jobs.bench data --smoke", "python -m jobs.bench model --parts inference bf16"],
    verbs={
        "data": Verb(_add_smoke, _data),
        "plan": Verb(_add_plan, _plan),
        "model": Verb(_add_model, _model),
        "metrics": Verb(_add_metrics, _metrics),
        "train": Verb(_add_train, _train),
        "serve": Verb(_add_serve, _serve),
        "gate": Verb(_add_gate, _gate),
        "roofline": Verb(_add_roofline, _roofline),
    },
)


if __name__ == "__main__":
    COMMAND.run()
