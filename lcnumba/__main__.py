"""The command line: ``python -m lcnumba COMMAND``, or without a command its help."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lcnumba
from lcnumba.connectivity.geometry import Geometry, padding_modes
from lcnumba.implementations.create import IMPLEMENTATIONS
from lcnumba.models.saving import UnknownLayerError
from lcnumba.mpi import plan
from lcnumba.runtime import compilation
from lcnumba.runtime.signals import deferred
from lcnumba.tools import bench, demo, info, inspect, warm_up
from lcnumba.utils import files
from lcnumba.utils.messages import install


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lcnumba", description="Locally connected layers on the CPU.")
    parser.add_argument("--version", action="version", version=f"lcnumba {lcnumba.__version__}")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="print the configuration and diagnose problems")
    train = commands.add_parser(
        "train",
        help="train a locally connected network on handwritten digits",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("--data", choices=demo.DATA, default="mnist", help="28 x 28 or 8 x 8 images")
    train.add_argument("--epochs", type=_Integer(1), default=12, metavar="N", help="number of epochs")
    train.add_argument("--batch-size", type=_Integer(1), default=32, metavar="N", help="images per step")
    train.add_argument(
        "--implementation", type=int, choices=IMPLEMENTATIONS, default=1, help="1 loops, 2 dense, 3 sparse"
    )
    train.add_argument("--optimizer", choices=tuple(demo.OPTIMIZERS), default="adam", help="update rule")
    train.add_argument("--seed", type=_Integer(0), default=0, metavar="N", help="seed of initial weights and shuffling")
    train.add_argument("--output", default="demo-output", metavar="DIR", help="folder for the model and plots")
    _add_bench(commands)
    warm = commands.add_parser(
        "warm-up",
        help="compile kernels into the cache, before many jobs start",
        description="Compiles what calls and training steps of a model need, or without a model those of usual layers, "
        "and caches the code on disk, so that later processes load it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    warm.add_argument("model", metavar="MODEL", nargs="?", help="an .npz model of lcnumba")
    warm.add_argument(
        "--batch-size", nargs="+", type=_Integer(1), default=[32], metavar="N", help="the sizes of all batches"
    )
    warm.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="without MODEL: of the layers")
    convert = commands.add_parser(
        "convert",
        help="convert a Keras model to lcnumba, or the weights of an lcnumba model to Keras",
        description="Converts a .keras or .h5 model to an .npz file; or an .npz model of lcnumba to a .weights.h5 or "
        ".h5 file for load_weights of the same model in Keras.",
    )
    convert.add_argument("source", metavar="IN")
    convert.add_argument("target", metavar="OUT")
    inspect = commands.add_parser(
        "inspect",
        help="summarize a model file",
        description="Prints the layers, settings, shapes and training progress in an lcnumba file; or the shapes of "
        "the weights in a Keras file, and which of its layers can be loaded.",
    )
    inspect.add_argument("file", metavar="FILE")
    _add_mpi_plan(commands)
    return parser


def _add_mpi_plan(commands: Any) -> None:
    """Add the command ``mpi-plan``."""
    command = commands.add_parser(
        "mpi-plan",
        help="what dividing a layer between machines costs: bytes, memory, predicted time",
        description="Prints, for a layer in the midst of a network on several ranks: the lines of each, the bytes that "
        "are sent in a training step, against those of data-parallel training, the memory of the largest rank, and the "
        "time of the messages by a model of the network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_size(command, any_rank=True)
    command.add_argument(
        "--ranks", nargs="+", type=_Integer(1), default=[2, 4, 8, 16, 32, 64], metavar="R", help="ranks"
    )
    command.add_argument("--circular", action="store_true", help="whether the last axis is circular, as longitudes")
    command.add_argument("--optimizer", choices=tuple(plan.STATES), default="adam", help="whose states are in memory")
    command.add_argument("--alpha", type=float, default=2e-6, metavar="S", help="seconds per message")
    command.add_argument("--beta", type=float, default=1e10, metavar="B", help="bytes per second that a rank sends")


def _add_size(command: Any, any_rank: bool = False) -> None:
    """Add the arguments that give the size of a layer: of two dimensions, or of one to three."""
    names = tuple(bench.WORKLOADS)
    command.add_argument(
        "--workload", nargs="+", choices=names, metavar="NAME", help=f"published sizes: {', '.join(names)}"
    )
    size = command.add_argument_group("custom size, instead of --workload")
    positive = _Integer(1)
    sizes = {
        "input": (3, ("H", "W", "C"), None, "height, width, channels"),
        "kernel": (2, ("KH", "KW"), (3, 3), "window size"),
        "strides": (2, ("SH", "SW"), (1, 1), "strides"),
    }  # fmt: skip
    for name, (count, letters, default, text) in sizes.items():
        settings: dict[str, Any] = {"nargs": count, "metavar": letters, "default": default}
        if any_rank:
            settings = {"nargs": "+", "metavar": "N", "default": default and default[:1]}
            text += (
                ", or of other dimensions; one number for all" if default else ", or of other dimensions, channels last"
            )
        size.add_argument(f"--{name}", type=positive, help=text, **settings)
    size.add_argument("--filters", type=positive, default=32, metavar="F", help="number of filters")
    size.add_argument("--padding", choices=("valid", "same", "tf_same"), default="valid", help="as in Keras")
    size.add_argument("--groups", type=positive, default=1, metavar="G", help="parts of the channels and filters")
    size.add_argument("--batch", type=positive, default=32, metavar="N", help="batch size")


def _workloads(parser: argparse.ArgumentParser, command: str, given: dict[str, Any]) -> list[bench.Workload]:
    """The layers that the arguments of `_add_size` give."""
    if bool(given["workload"]) == bool(given["input"]):
        parser.error(f"{command}: give either --workload NAME or --input H W C")
    if given["workload"]:
        return [bench.WORKLOADS[name] for name in given["workload"]]
    input_size, kernel, strides = (tuple(given[name]) for name in ("input", "kernel", "strides"))
    settings = (given["batch"], input_size, given["filters"], kernel, strides, given["padding"])
    return [bench.Workload("own", "given on the command line", *settings, groups=given["groups"])]


def _add_bench(commands: Any) -> None:
    """Add the command ``bench``."""
    command = commands.add_parser(
        "bench",
        help="time the implementations on a published or custom layer size",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_size(command)
    positive = _Integer(1)
    command.add_argument(
        "--implementation", nargs="+", type=int, choices=IMPLEMENTATIONS, default=[1], help="1 loops, 2 dense, 3 sparse"
    )
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of data and weights")
    command.add_argument("--threads", type=positive, metavar="N", help="number of Numba threads; by default all")
    command.add_argument("--seconds", type=float, default=1.0, metavar="S", help="duration of each measurement")
    command.add_argument("--json", metavar="FILE", help="also write results and environment to this file")


class _Integer:
    """An argparse type: an integer of at least `minimum`."""

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < self._minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {self._minimum}")
        return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, or print the help; return 0, or 1 for wrong answers. An invalid argument exits with 2."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    if given["command"] is None:
        parser.print_help()
        return 0
    run = {
        "info": _info, "train": _train, "bench": _bench, "warm-up": _warm_up, "convert": _convert, "inspect": _inspect,
        "mpi-plan": _mpi_plan,
    }  # fmt: skip
    return run[given.pop("command")](parser, given)


def _info(_: argparse.ArgumentParser, __: dict[str, Any]) -> int:
    facts, warnings = info.collect()
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:{width}}  {fact}")
    for warning in warnings:
        print(f"warning: {warning}")
    return 0 if facts["answers"] == "right" else 1


def _convert(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    source, target = given["source"], given["target"]
    try:
        if target.endswith(".npz"):
            lcnumba.load_keras(source).save(target)
        elif target.endswith(".h5"):
            lcnumba.save_keras_weights(lcnumba.load(source), target)
        else:
            parser.error(f"convert: OUT={target!r} must end in .npz, .weights.h5 or .h5")
    except UnknownLayerError as error:
        parser.error(
            f"convert: {error}; the command line supports no custom classes: call lcnumba.load(path, layers=...) and "
            "lcnumba.save_keras_weights(model, path) in Python"
        )
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        parser.error(f"convert: {error}")
    print(f"{source} -> {target}")
    return 0


def _inspect(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    try:
        for line in inspect.describe(given["file"]):
            print(line)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        parser.error(f"inspect: {error}")
    return 0


def _warm_up(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    compiled: list[None] = []
    start = time.perf_counter()
    try:
        with compilation.listening(lambda: compiled.append(None)):
            if given["model"] is None:
                warm_up.warm_up_usual(given["batch_size"], given["dtype"])
            else:
                lcnumba.warm_up(lcnumba.load(given["model"]), given["batch_size"])
    except (ValueError, TypeError, OSError, MemoryError) as error:
        parser.error(f"warm-up: {error}")
    folder = info.cache_folder() or "nowhere: no folder is writable"
    print(f"{len(compiled)} kernels compiled in {time.perf_counter() - start:.1f} s; cached in {folder}")
    return 0


def _bench(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    workloads = _workloads(parser, "bench", given)
    try:
        if given["threads"]:
            with deferred():
                import numba

            numba.set_num_threads(given["threads"])
        bench.run(workloads, given["implementation"], given["dtype"], given["seconds"], given["json"])
    except (ValueError, OSError, MemoryError) as error:
        parser.error(f"bench: {error}")
    return 0


def _mpi_plan(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    network = {name: given[name] for name in ("optimizer", "alpha", "beta")}
    if min(given["alpha"], given["beta"]) <= 0:
        parser.error("mpi-plan: --alpha and --beta must be above 0")
    for workload in _workloads(parser, "mpi-plan", given):
        rank = len(workload.input_size) - 1
        modes = padding_modes(workload.padding_mode, rank)
        if given["circular"]:
            modes = (*modes[:-1], "circular")
        kernel, strides = (size * rank if len(size) == 1 else size for size in (workload.kernel_size, workload.strides))
        strides = strides if given["input"] else strides[:rank]
        try:
            geometry = Geometry(
                workload.input_size[:-1], workload.input_size[-1], workload.filters, kernel, strides, (1,) * rank,
                workload.padding, modes, groups=workload.groups,
            )  # fmt: skip
        except ValueError as error:
            parser.error(f"mpi-plan: {error}")
        for line in plan.table(geometry, given["ranks"], workload.batch, **network):
            print(line)
        print()
    return 0


def _train(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    try:
        Path(given["output"]).mkdir(parents=True, exist_ok=True)
        for name in demo.OUTPUT_FILES:
            files.check_writable(Path(given["output"], name))
    except OSError as error:
        parser.error(f"argument --output: {error}")
    try:
        demo.run(**given)
    except ModuleNotFoundError as error:
        parser.error(f"{error}; the demo needs additional packages: {install('demo')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
