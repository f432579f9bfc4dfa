"""What does a second prompt change, block by block?

wan-activation demo                 a tiny trained model: pictures, and what changed
wan-activation demo --random        a random model: how far each preset moves it
wan-activation demo --model DIR     the same with diffusers weights; writes videos
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from . import distances, effects


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="wan-activation demo",
        usage="%(prog)s [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--random", action="store_true", help="random weights")
    kind.add_argument("--model", help="folder of a diffusers Wan pipeline")
    parser.add_argument("--prompt", help="the first prompt")
    parser.add_argument("--inject", help="the second prompt")
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    parser.add_argument("--seed", type=int, help="default 42; of the tiny model the first seed, default 0")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these cases, presets or patterns only")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds; tiny model only")
    others = parser.add_argument_group("with --random and --model")
    others.add_argument("--negative", default=distances.NEGATIVE)
    others.add_argument("--strength", type=float, default=1.0)
    others.add_argument("--steps", type=int, help="default 8, with --model 30")
    others.add_argument("--guidance", type=float, default=5.0)
    others.add_argument("--size", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "FRAMES"))
    arguments = parser.parse_args(argv)
    tiny = not (arguments.random or arguments.model)
    for name in ("negative", "strength", "steps", "guidance", "size"):
        if tiny and getattr(arguments, name) != parser.get_default(name):
            parser.error(f"--{name} goes with --random or --model: the tiny model has settings of its own.")
    module = effects if tiny else distances
    arguments.prompt = arguments.prompt or module.PROMPT
    arguments.inject = arguments.inject or module.INJECTED
    arguments.seed = arguments.seed if arguments.seed is not None else (0 if tiny else 42)
    known = effects.case_names() if tiny else [name for name, _ in distances.cases(1.0)]
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Choose from: {', '.join(known)}")
    if arguments.seeds < 1:
        parser.error("--seeds: at least 1")
    arguments.steps = arguments.steps or (30 if arguments.model else 8)
    arguments.size = arguments.size or ([832, 480, 81] if arguments.model else [128, 128, 9])
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    if arguments.random or arguments.model:
        distances.run(arguments)
    else:
        effects.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
