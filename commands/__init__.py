"""The console command `wan-activation`. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": ("demo.__main__", "what edits change in the clips of a tiny trained Wan model"),
    "map": ("commands.block_map", "which blocks of a model carry what of a second prompt"),
    "sweep": ("sweeps.command", "run a plan of edits and seeds, and report on it"),
    "store": ("commands.store", "list, export, import, verify, remove and salvage stored embeddings"),
}
"""Module in the package and one line of help."""

EXTRAS = {
    "diffusers": "diffusers", "transformers": "diffusers", "accelerate": "diffusers", "tqdm": "diffusers",
    "imageio": "diffusers", "matplotlib": "plot", "ray": "ray",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit status: 0, 1 when it failed, 2 for arguments that do not fit."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="wan-activation",
        description="Edits inside the transformer blocks of Wan video models.",
        epilog="\n".join(
            ["commands:", *(f"  {name:<8}{text}" for name, (_, text) in COMMANDS.items()), "",
             "wan-activation COMMAND --help tells more."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    parser.add_argument("--version", action="version", version=_version())
    command = parser.parse_args(given[:1]).command
    try:
        module = importlib.import_module(f"..{COMMANDS[command][0]}", __name__)
        run = module.run if hasattr(module, "run") else module.main
        return int(run(given[1:]) or 0)
    except ModuleNotFoundError as error:
        parser.exit(1, f"wan-activation {command}: {_missing(command, error)}\n")
    except KeyboardInterrupt:
        return 130


def _missing(command: str, error: ModuleNotFoundError) -> str:
    package, name = __package__.rpartition(".")[0], str(error.name)
    if name.startswith(package):
        return f"this installation has no {name.removeprefix(package + '.')}, so it cannot {command}."
    extra = EXTRAS.get(name.partition(".")[0])
    what = f"wanvideo-activation-editor[{extra}]" if extra else name
    return f"the Python package {name} is missing. Install it: pip install '{what}'"


def _version() -> str:
    from .. import __version__

    return f"wan-activation {__version__}"
