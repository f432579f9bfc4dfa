"""A real ComfyUI with the pack, the wrapper and tiny random models; started once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from . import tiny_models
from .server import WRAPPER_NAME, ComfyServer, comfyui_path, missing_comfyui
from .workflows import HOSTS, Host, NativeHost, WrapperHost


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compilation last: it fills the server with objects, and every later garbage collection would be slow."""
    items.sort(key=lambda item: item.path.name == "test_compile.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The end of the server's log, beside a failure."""
    report = yield
    if report.failed:
        used = [getattr(value, "server", value) for value in getattr(item, "funcargs", {}).values()]
        for server in {id(s): s for s in used if isinstance(s, ComfyServer)}.values():
            report.sections.append(("ComfyUI's log", server.log()[-6000:]))
    return report


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny checkpoints."""
    reason = missing_comfyui()
    if reason:
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("models")
    tiny_models.write_models(root)
    return root


def serve(base: Path, models: Path, wrapper: Path) -> Iterator[ComfyServer]:
    """A running server with its own base directory; stopped in the end, however that comes."""
    (base / "models").symlink_to(models, target_is_directory=True)
    server = ComfyServer(base, wrapper)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    yield from serve(tmp_path_factory.mktemp("comfyui"), models, comfyui_path() / "custom_nodes" / WRAPPER_NAME)


@pytest.fixture(scope="session")
def wrapper(server: ComfyServer) -> WrapperHost:
    return WrapperHost(server)


@pytest.fixture(scope="session")
def native(server: ComfyServer) -> NativeHost:
    return NativeHost(server)


@pytest.fixture(scope="session", params=list(HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    """Each host in turn."""
    return request.getfixturevalue(request.param)
