"""Cells on ComfyUI servers, over their HTTP API.

Why no library: comfy-script speaks to one server at a time, which it holds in a global; comfy-api-simplified 1.6 waits
without a limit for a server that has died, and drops what the server says of a workflow that it refuses. The rest is
three requests.
"""

from __future__ import annotations

import io
import json
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .cells import ATTEMPTS, Cell, Kind, Model, Outcome

POLL, TIMEOUT = 0.2, 30.0  # seconds
NEEDED = ("seed", "blocks")
_NAME = re.compile(r"\{(\w+)\}")


class RefusedError(Exception):
    """A server refused the workflow, or a node has failed; with what the server says."""


class LostError(OSError):
    """The server no longer knows of a workflow that it took."""


class OnComfyUI:
    """The engine `comfyui`.

    Each server samples one cell at a time; the cells of a server that no longer answers go to the others. The workflow
    is one that ComfyUI exports for its API, with a SaveLatent node (results) and a SaveImage node (pictures). Where an
    input is `"{name}"`, it gets the cell's value of that name: prompt, other, recipe, blocks, strength, window_start,
    window_end, operation, site, seed, or an entry of the plan's `call`. Of a plain clip, blocks are "none" and other is
    the prompt. There are no `random_direction` controls here.

    Args:
        servers: addresses, such as "http://127.0.0.1:8188".
        workflow: a JSON file, or its values.

    Raises:
        ValueError: no server, an address that is not http, a workflow without the names seed and blocks.
    """

    kinds: tuple[Kind, ...] = ("plain", "edit", "random_blocks")

    def __init__(self, servers: Sequence[str] = (), workflow: str | Path | Mapping[str, Any] = "") -> None:
        if isinstance(servers, str) or not servers:
            raise ValueError("servers: give a list of addresses of ComfyUI servers.")
        for url in servers:
            if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                raise ValueError(f"servers: {url!r} is no address such as http://127.0.0.1:8188.")
        if not workflow:
            raise ValueError("workflow: give a workflow in API format, a file or its values.")
        text = Path(workflow).read_text(encoding="utf-8") if isinstance(workflow, str | Path) else json.dumps(workflow)
        self._servers, self._workflow = [url.rstrip("/") for url in servers], json.loads(text)
        if missing := [name for name in NEEDED if f"{{{name}}}" not in text]:
            raise ValueError(f'workflow: no input is "{{{missing[0]}}}", so that every cell would be the same.')

    def block_count(self, model: Model) -> int:
        raise ValueError(f"Model {model.name}: give its block_count in the plan; a server does not tell it.")

    def outcomes(self, model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome | Exception]]:
        due: queue.SimpleQueue[Cell | None] = queue.SimpleQueue()
        found: queue.SimpleQueue[tuple[str, Cell, Outcome | Exception]] = queue.SimpleQueue()
        for cell in cells:
            due.put(cell)

        def serve(url: str) -> None:
            while (cell := due.get()) is not None:
                try:
                    found.put((url, cell, self._sample(url, cell)))
                except OSError as error:  # the server is gone
                    found.put((url, cell, error))
                    return
                except Exception as error:
                    found.put((url, cell, error))

        threads = [threading.Thread(target=serve, args=(url,), daemon=True) for url in self._servers]
        for thread in threads:
            thread.start()
        left, alive, failures = len(cells), set(self._servers), Counter[str]()
        try:
            while left:
                url, cell, outcome = found.get()
                if isinstance(outcome, OSError):
                    alive.discard(url)
                    if not alive:
                        raise ValueError(f"No ComfyUI server answers any more; the last was {url}: {outcome}") from None
                failures[cell.id] += isinstance(outcome, Exception)
                if isinstance(outcome, Exception) and failures[cell.id] < ATTEMPTS:
                    due.put(cell)
                    continue
                left -= 1
                yield cell, outcome
        finally:
            for _ in threads:
                due.put(None)

    def close(self) -> None:
        """Servers keep running."""

    def _sample(self, url: str, cell: Cell) -> Outcome:
        started = time.perf_counter()
        body = {"prompt": filled(self._workflow, cell), "client_id": uuid.uuid4().hex}
        run = json.loads(_request(f"{url}/prompt", json.dumps(body).encode()))["prompt_id"]
        entry = _wait(url, run)
        files = {kind: _files(url, entry, kind) for kind in ("latents", "images")}
        if not files["latents"]:
            raise RefusedError("The workflow saved no latents. Add a SaveLatent node.")
        from safetensors.torch import load

        latents = load(files["latents"][0])["latent_tensor"]
        pictures = [np.array(Image.open(io.BytesIO(data)).convert("RGB")) for data in files["images"]]
        frames = torch.from_numpy(np.stack(pictures)) if pictures else None
        return Outcome(latents, frames, time.perf_counter() - started)


def filled(workflow: Any, cell: Cell) -> Any:
    """The workflow with a cell's values in place of names."""
    plain = cell.kind == "plain"
    values = {
        "prompt": cell.prompt, "other": cell.prompt if plain else cell.other, "recipe": cell.recipe, "seed": cell.seed,
        "blocks": cell.blocks, "strength": cell.strength, "window_start": cell.window[0], "window_end": cell.window[1],
        "operation": cell.operation.get("operation", ""), "site": cell.operation.get("site", ""), **cell.call,
    }  # fmt: skip

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: fill(v) for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v) for v in value]
        if not isinstance(value, str):
            return value
        if (whole := _NAME.fullmatch(value)) and whole[1] in values:
            return values[whole[1]]
        return _NAME.sub(lambda found: str(values.get(found[1], found[0])), value)

    return fill(workflow)


def _request(url: str, data: bytes | None = None) -> bytes:
    """Raises RefusedError for an answer that is an error, OSError for none."""
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  # checked above
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        raise RefusedError(f"{url} answers {error.code}: {error.read().decode(errors='replace')[:2000]}") from None
    except (TimeoutError, ConnectionError) as error:
        raise LostError(str(error)) from error


def _wait(url: str, run: str) -> Mapping[str, Any]:
    """What the server's history says of a run that has ended well."""
    missed = 0
    while True:
        entry: Any = json.loads(_request(f"{url}/history/{run}")).get(run)
        if entry:
            messages = dict(entry["status"]["messages"])
            if error := messages.get("execution_error"):
                raise RefusedError(f"{error['node_type']}: {error['exception_message']}".strip())
            if "execution_interrupted" in messages:
                raise RefusedError("The run was interrupted on the server.")
            return dict(entry["outputs"])
        queued = json.loads(_request(f"{url}/queue"))
        known = any(run == item[1] for part in queued.values() for item in part)
        missed = 0 if known else missed + 1
        if missed > 5:  # it may be between queue and history for a moment
            raise LostError(f"{url} no longer knows of the workflow; it may have been started anew.")
        time.sleep(POLL)


def _files(url: str, outputs: Mapping[str, Any], kind: str) -> list[bytes]:
    found = [file for of in outputs.values() for file in of.get(kind, ()) if file.get("type") == "output"]
    return [_request(f"{url}/view?{urllib.parse.urlencode(file)}") for file in found]
