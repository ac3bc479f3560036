"""Command line: ``python -m lcnumba train``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lcnumba import demo
from lcnumba.implementations import IMPLEMENTATIONS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lcnumba", description="Locally connected layers on the CPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train a locally connected network on real handwritten digits",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("--data", choices=demo.DATA, default="mnist", help="28 x 28 or 8 x 8 images")
    train.add_argument("--epochs", type=_Integer(1), default=12, metavar="N", help="passes over the images")
    train.add_argument("--batch-size", type=_Integer(1), default=32, metavar="N", help="images a step")
    train.add_argument("--implementation", type=int, choices=IMPLEMENTATIONS, default=1, help="loops, dense or sparse")
    train.add_argument("--optimizer", choices=tuple(demo.OPTIMIZERS), default="adam", help="how to step")
    train.add_argument("--seed", type=_Integer(0), default=0, metavar="N", help="of initial weights and shuffling")
    train.add_argument("--output", default="demo-output", metavar="DIR", help="folder for model and pictures")
    return parser


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
            raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least {self._minimum}")
        return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, or 2 for a wrong value."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    given.pop("command")
    try:
        Path(given["output"]).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=given["output"]).close()
    except OSError as error:
        parser.error(f"argument --output: {error}")
    try:
        demo.run(**given)
    except ModuleNotFoundError as error:
        parser.error(f"{error}; the example needs more: pip install 'lcnumba[demo]', or '.[demo]' in a checkout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
