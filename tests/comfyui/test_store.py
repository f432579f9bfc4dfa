"""The embedding store in a running ComfyUI: what is stored in one run samples the same in a later one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from .conftest import serve
from .server import WRAPPER_NAME, ComfyServer, RejectedError, RunFailedError, comfyui_path
from .workflows import FOX, MOON, Host, Link, Workflow, edit, output

DATABASE = {"cleanup_days": 30, "cleanup_min_access": 5}
OUTPUTS = {"wrapper": 0, "native": 1}

_scales = iter(range(1, 100))  # each run is another operation


def store_file(server: ComfyServer) -> Path:
    return server.base / "user" / "__wanvideo_activation_editor" / "embeddings.duckdb"


def encode(host: Host, flow: Workflow, prompt: str, negative: str, nonce: int = 0) -> Link:
    """A prompt as a bf16 encoder gives it, where the host's test node can."""
    options = {"dtype": "bfloat16"} if host.name == "wrapper" else {}
    return host.embeds(flow, prompt, negative, nonce, **options)


def keep(host: Host, name: str, prompt: str, precision: str) -> None:
    flow = Workflow()
    embeds = encode(host, flow, prompt, "blurry, low quality")
    flow.add("WanVideoStoreEmbedding", text_embeds=embeds, name=name, tags="test", note="", prompt=prompt,
             precision=precision)  # fmt: skip
    host.server.run(flow).checked()


def load(host: Host, name: str, flow: Workflow, *prompts: object, device: str = "offload") -> Link:
    node = flow.add("WanVideoLoadEmbedding", embedding=name, device=device, dtype="stored")
    return output(node, OUTPUTS[host.name])


def report(server: ComfyServer, action: str) -> str:
    flow = Workflow()
    flow.add("WanVideoEmbeddingDatabase", action=action, **DATABASE)
    return server.run(flow).checked().output("1", "text")[0]


def test_a_stored_embedding_samples_bit_for_bit_as_the_original(host: Host):
    """bf16 is exact by default; the native test node gives fp32, which `exact` keeps."""
    keep(host, f"fox {host.name}", FOX, "half" if host.name == "wrapper" else "exact")
    original = host.digest(FOX, encode=partial(encode, host))
    assert host.digest(FOX, encode=partial(load, host, f"fox {host.name}")) == original
    assert host.digest(MOON, encode=partial(encode, host)) != original


def test_a_stored_embedding_is_injected_as_the_original(host: Host):
    keep(host, f"moon {host.name}", MOON, "exact")
    given = edit(injection_strength=0.5)
    original = host.digest(FOX, {**given, "inject": MOON}, encode=partial(encode, host))

    def mixed(flow: Workflow, prompt: str, *rest: object) -> Link:
        return (
            load(host, f"moon {host.name}", flow, device="stored")
            if prompt == MOON
            else encode(host, flow, prompt, *rest)
        )

    assert host.digest(FOX, {**given, "inject": MOON}, encode=mixed) == original


def test_the_menu_lists_what_was_stored_and_the_server_refuses_other_names(host: Host):
    keep(host, f"listed {host.name}", FOX, "half")
    info = host.server.call("/object_info/WanVideoLoadEmbedding")["WanVideoLoadEmbedding"]
    kind, options = info["input"]["required"]["embedding"]
    names = options["options"] if isinstance(kind, str) else kind
    assert f"listed {host.name}" in names
    with pytest.raises(RejectedError, match="not stored at all"):
        host.digest(FOX, encode=partial(load, host, "not stored at all"))


def test_the_store_lies_where_comfyui_does_not_serve_files(wrapper: Host):
    keep(wrapper, "served", FOX, "half")
    assert store_file(wrapper.server).is_file()
    with contextlib.suppress(OSError):
        content = wrapper.server.call("/userdata/..%2F__wanvideo_activation_editor%2Fembeddings.duckdb")
        assert not content


def test_the_database_node_reports_on_a_running_server(wrapper: Host):
    keep(wrapper, "reported", FOX, "half")
    assert str(store_file(wrapper.server)) in report(wrapper.server, "stats")
    assert "reported" in report(wrapper.server, "list_recent")
    assert re.fullmatch(r"All \d+ tensors are whole\.", report(wrapper.server, "verify"))
    assert "after" in report(wrapper.server, "compact")
    assert wrapper.digest(FOX, encode=partial(load, wrapper, "reported"))


def test_what_is_exported_can_be_imported_again(wrapper: Host):
    keep(wrapper, "shared", FOX, "half")
    flow = Workflow()
    flow.add("WanVideoExportEmbeddings", names="shared", tag="", format="safetensors", filename_prefix="test")
    line = wrapper.server.run(flow).checked().output("1", "text")[0].splitlines()[1]
    folder = wrapper.server.base / "input" / "wanvideo_embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    (wrapper.server.base / line).rename(folder / "theirs.safetensors")
    keep(wrapper, "shared", MOON, "half")
    flow = Workflow()
    flow.add("WanVideoImportEmbeddings", file="theirs.safetensors", replace=False)
    text = wrapper.server.run(flow).checked().output("1", "text")[0]
    assert "shared (2)" in text
    original = wrapper.digest(FOX, encode=partial(encode, wrapper))
    assert wrapper.digest(FOX, encode=partial(load, wrapper, "shared (2)")) == original


@pytest.fixture
def second(server: ComfyServer, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComfyServer]:
    """Another ComfyUI that is told to use the first one's store."""
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(store_file(server)))
    yield from serve(tmp_path, models, comfyui_path() / "custom_nodes" / WRAPPER_NAME)


def test_a_second_comfyui_on_the_same_store_says_who_has_it_and_samples_on(wrapper: Host, second: ComfyServer):
    keep(wrapper, "held by the first", FOX, "half")
    other = type(wrapper)(second)
    expected = wrapper.digest(FOX, encode=partial(encode, wrapper))
    assert other.digest(FOX, encode=partial(encode, other)) == expected
    with pytest.raises(RunFailedError, match=r"is in use by process \d+"):
        keep(other, "one", FOX, "half")
    assert wrapper.digest(FOX, encode=partial(load, wrapper, "held by the first")) == expected


def test_a_remembered_prompt_is_encoded_in_the_first_run_only(wrapper: Host):
    def remembered(flow: Workflow, prompt: str, negative: str, nonce: int = 0) -> Link:
        embeds = encode(wrapper, flow, prompt, negative, nonce)
        return output(flow.add("WanVideoRememberedPrompt", name="remembered fox", text_embeds=embeds, refresh=False), 0)

    original = wrapper.digest(FOX, encode=partial(encode, wrapper))
    assert wrapper.digest(FOX, encode=remembered) == original
    assert wrapper.digest(MOON, encode=remembered) == original  # the name decides: the moon is not asked for


def test_the_direct_injector_follows_what_is_stored_under_its_text(host: Host):
    """Another embedding stored under the name is injected in the next run of the same graph."""

    def injected() -> str:
        given = edit(None, "WanVideoDirectInjector", injection_prompt=f"followed {host.name}", difference_target=15.0,
                     injection_mode="blend", block_activations="all")  # fmt: skip
        return host.digest(FOX, given)

    keep(host, f"followed {host.name}", MOON, "exact")
    moon = injected()
    assert injected() == moon
    keep(host, f"followed {host.name}", "a red lantern in the rain", "exact")
    assert injected() != moon


def test_a_report_comes_after_a_store_of_the_same_run(wrapper: Host):
    flow = Workflow()
    asked = {"action": "delete", "name": "stored first", "dry_run": True, **DATABASE}
    stored = flow.add("WanVideoStoreEmbedding", text_embeds=encode(wrapper, flow, FOX, "blurry"), name="stored first",
                      tags="", note="", prompt="", precision="half")  # fmt: skip
    report_id = flow.add("WanVideoEmbeddingDatabase", **asked, after=stored)[0]
    assert "Would remove 1" in wrapper.server.run(flow).checked().output(report_id, "text")[0]


def test_an_operation_is_recorded_unless_it_is_switched_off(wrapper: Host):
    """As in a file of before: without the input, which is the last one."""

    def runs(**inputs: bool) -> int:
        flow = Workflow()
        scale = next(_scales) / 100
        a, b = (encode(wrapper, flow, prompt, "blurry") for prompt in (FOX, MOON))
        difference = flow.add("WanVideoVectorDifference", text_embeds_a=a, text_embeds_b=b, normalize=False,
                              scale=scale, **inputs)  # fmt: skip
        flow.add("TestShow", value=difference)
        wrapper.server.run(flow).checked()
        found = re.search(r"difference\D+(\d+)", report(wrapper.server, "performance"))
        return int(found.group(1)) if found else 0

    before = runs(store_in_db=False)
    assert runs() == before + 1
    assert runs(store_in_db=True) == before + 2
    assert runs(store_in_db=False) == before + 2
