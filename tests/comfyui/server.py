"""A ComfyUI server as a subprocess on a free loopback port, driven over its HTTP API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRAPPER_NAME = "ComfyUI-WanVideoWrapper"
REPOSITORY = Path(__file__).resolve().parents[2]
HELPERS = Path(__file__).resolve().parent / "lab_nodes"
BOOT_SECONDS, RUN_SECONDS = 120, 240


class RejectedError(Exception):
    """The server refused a workflow at /prompt, before running any of it."""


class RunFailedError(Exception):
    """A node raised, or the run was interrupted."""


@dataclass
class Result:
    """What /history knows of one run, and what the server logged meanwhile."""

    outputs: Mapping[str, Mapping[str, list[Any]]]
    messages: Mapping[str, Mapping[str, Any]]
    log: str

    @property
    def error(self) -> Mapping[str, Any] | None:
        return self.messages.get("execution_error")

    @property
    def interrupted(self) -> bool:
        return "execution_interrupted" in self.messages

    def output(self, node: str, name: str) -> list[Any]:
        return self.outputs[node][name]

    def checked(self) -> Result:
        """Itself.

        Raises:
            RunFailedError: the run did not end well; with the node's traceback.
        """
        if self.error:
            trace = "".join(self.error["traceback"])
            raise RunFailedError(f"{self.error['node_type']}: {self.error['exception_message']}\n{trace}")
        if self.interrupted:
            raise RunFailedError("interrupted")
        return self


def comfyui_path() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI").expanduser()


def comfyui_python(comfyui: Path) -> Path:
    given = os.environ.get("COMFYUI_PYTHON")
    if given:
        return Path(given).expanduser()
    candidates = [
        folder / "bin" / "python" for folder in (comfyui.parent / "venv", comfyui / ".venv", comfyui / "venv")
    ]
    return next((p for p in candidates if p.exists()), Path(sys.executable))


def missing_comfyui() -> str | None:
    """One line that says how to get what the tests need, or None when it is there."""
    comfyui = comfyui_path()
    if not (comfyui / "main.py").is_file():
        return (
            f"no ComfyUI at {comfyui}: install it there ('comfy install' of comfy-cli does) or set COMFYUI_PATH, "
            f"then git clone {WRAPPER_NAME} into its custom_nodes"
        )
    if not (comfyui / "custom_nodes" / WRAPPER_NAME).is_dir():
        return (
            f"no {WRAPPER_NAME} in {comfyui / 'custom_nodes'}: git clone https://github.com/kijai/{WRAPPER_NAME} there"
        )
    return None


NO_OLDER_WRAPPER = "no older WanVideoWrapper: set WAN_WRAPPER_OLD to a copy of its version 1.2.5"


def older_wrapper() -> Path | None:
    """The wrapper's version 1.2.5 of July 2025, which has another interface, if there is a copy."""
    default = Path.home() / "comfy" / "wrapper-2025" / WRAPPER_NAME
    path = Path(os.environ.get("WAN_WRAPPER_OLD") or default).expanduser()
    return path if path.is_dir() else None


@dataclass
class ComfyServer:
    """The server with its private folders.

    Args:
        base: its base directory; `models` in it is read.
        wrapper: the WanVideoWrapper to load.
        options: more of ComfyUI's command line options.
    """

    base: Path
    wrapper: Path
    url: str = ""
    options: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log_file(self) -> Path:
        return self.base / "server.log"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RunFailedError: it ended or did not answer; with its log.
        """
        nodes = self.base / "custom_nodes"
        nodes.mkdir(parents=True, exist_ok=True)
        for name, target in {"activation-editor": REPOSITORY, WRAPPER_NAME: self.wrapper, "helpers": HELPERS}.items():
            (nodes / name).symlink_to(target, target_is_directory=True)
        (self.base / "user").mkdir(exist_ok=True)
        comfyui = comfyui_path()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            str(comfyui_python(comfyui)), "-u", "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
            "--disable-api-nodes", "--disable-auto-launch", "--base-directory", str(self.base),
            "--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}", *self.options,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        for name in ("PYTHONPATH", "WAN_ACTIVATION_DEBUG", "WAN_ACTIVATION_VERBOSE"):
            environment.pop(name, None)
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=comfyui, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        self.url = f"http://127.0.0.1:{port}"
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                raise RunFailedError(f"ComfyUI ended while starting:\n{self.log()[-4000:]}")
            try:
                self.call("/system_stats")
                return
            except OSError:
                time.sleep(0.1)
        raise RunFailedError(f"ComfyUI did not answer within {BOOT_SECONDS} s:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def log(self, start: int = 0) -> str:
        """What the server wrote since byte `start`."""
        with self.log_file.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def log_size(self) -> int:
        return self.log_file.stat().st_size

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            content = response.read()
        return json.loads(content) if content else None

    def submit(self, workflow: Mapping[str, Any], page: bool = False) -> str:
        """Queue a workflow; returns its id.

        Args:
            workflow: in the API's format.
            page: send what the graph editor sends along, which ends up in the metadata of saved files.

        Raises:
            RejectedError: validation failed; with the server's answer.
        """
        try:
            extra = {"extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}} if page else {}
            return self.call("/prompt", {"prompt": workflow, **extra})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise RejectedError(error.read().decode()) from None

    def result(self, run: str, log_start: int = 0) -> Result:
        """Wait for a run to end."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            entry = self.call(f"/history/{run}").get(run)
            if entry:
                return Result(entry["outputs"], dict(entry["status"]["messages"]), self.log(log_start))
            if self._process is None or self._process.poll() is not None:
                raise RunFailedError(f"ComfyUI ended during a run:\n{self.log()[-4000:]}")
            time.sleep(0.02)
        raise RunFailedError(f"no result within {RUN_SECONDS} s:\n{self.log(log_start)[-4000:]}")

    def run(self, workflow: Mapping[str, Any], page: bool = False) -> Result:
        start = self.log_size()
        return self.result(self.submit(workflow, page), start)

    def free(self) -> None:
        """Drop every cached node output, models included, before the next run."""
        self.call("/free", {"unload_models": True, "free_memory": True})
        time.sleep(0.3)  # the idle queue wakes up for it
