"""Measure a block map: which blocks carry what of a second prompt.

wan-activation map "a red circle moving left at night" "a blue ring growing on sand"
wan-activation map --model DIR "a red fox in the snow" "a red fox on the beach"

Without --model it measures the tiny trained model, whose captions are of the form above.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="wan-activation map",
        usage="%(prog)s [options] prompt other",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", help="what is sampled")
    parser.add_argument("other", help="the second prompt")
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of a diffusers Wan pipeline")
    parser.add_argument("--levels", type=float, nargs="+", metavar="N", default=[0.8, 0.6, 0.4], help="noise levels")
    parser.add_argument("--seeds", type=int, default=4, help="how many noises (default 4)")
    parser.add_argument("--blocks", default="all", help="such as 10-29 (default all)")
    parser.add_argument("--site", default="context", help="where in the block (default context)")
    parser.add_argument("--verify", type=int, default=0, metavar="N", help="sample N blocks to the end too")
    parser.add_argument("--top", type=int, default=6, help="blocks named at the end (default 6)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the values as JSON")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write the heat map")
    with_model = parser.add_argument_group("with --model")
    with_model.add_argument("--steps", type=int, default=20)
    with_model.add_argument("--size", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "FRAMES"), default=[480, 272, 17])
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    import diffusers  # noqa: F401  # named when it is missing
    from tqdm import tqdm

    from ..probing.pipelines import block_map

    try:
        pipe, prompts, call = _model(arguments)
        with tqdm(desc="Measuring", unit="block") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            found = block_map(
                pipe, *prompts, arguments.levels, arguments.seeds, blocks=arguments.blocks, site=arguments.site,
                verify=arguments.verify, progress=show, **call,
            )  # fmt: skip
        top = found.top(arguments.top)
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"wan-activation map: {error}\n")
        return 1
    if arguments.output:
        arguments.output.write_text(json.dumps(found.to_plain()), encoding="utf-8")
    if arguments.plot:
        found.plot().save(arguments.plot)
    print(found.report(top=arguments.top))
    print(f"\nTop {arguments.top}, for blocks=: {top}")
    return 0


def _model(arguments: argparse.Namespace) -> tuple[Any, tuple[Any, Any], dict[str, Any]]:
    """Pipeline, prompts, and arguments of its calls."""
    if arguments.model is None:
        from .. import tiny_wan

        prompts = tiny_wan.encode(arguments.prompt), tiny_wan.encode(arguments.other)
        return tiny_wan.pipeline(), prompts, {**tiny_wan.CALL, "negative_prompt_embeds": tiny_wan.encode("")}
    from ..demo.distances import load_pipeline

    pipe = load_pipeline(str(arguments.model))
    pipe.set_progress_bar_config(disable=True)
    width, height, frames = arguments.size
    call = {"width": width, "height": height, "num_frames": frames, "num_inference_steps": arguments.steps}
    return pipe, (arguments.prompt, arguments.other), call
