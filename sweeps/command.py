"""The command `wan-activation sweep`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..storage.errors import StoreError
from .running import sweep


def run(argv: Sequence[str] | None = None) -> int:
    """Run a plan; 0 when every cell has a result, 1 when some have failed, 2 when the plan does not fit."""
    parser = argparse.ArgumentParser(
        prog="wan-activation sweep", description="Sample every cell of a plan that has no result yet, and report on it."
    )
    parser.add_argument("plan", help="a TOML file; docs/guides/sweeps.md describes it")
    parser.add_argument("--folder", help="for the table, the sheet and the report; beside the plan by default")
    parser.add_argument("--engine", choices=("serial", "ray", "comfyui"), default="serial")
    parser.add_argument("--address", help="with ray: the cluster; 'auto' for the one that this machine is part of")
    parser.add_argument("--servers", nargs="+", metavar="URL", help="with comfyui")
    parser.add_argument("--workflow", help="with comfyui: an API-format workflow with named values")
    given = parser.parse_args(argv)
    options = {n: getattr(given, n) for n in ("address", "servers", "workflow") if getattr(given, n) is not None}
    try:
        found = sweep(given.plan, given.folder, engine=given.engine, **options)
    except (ValueError, OSError, StoreError) as error:
        sys.stderr.write(f"wan-activation sweep: {error}\n")
        return 2
    sys.stdout.write(f"{len(found.rows)} cells, {len(found.failed)} failed. See {found.folder / 'report.html'}\n")
    return 1 if found.failed else 0
