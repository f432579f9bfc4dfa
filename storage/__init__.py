"""A persistent store of embeddings and of the operations made with them.

    from wanvideo_activation_editor.storage.store import EmbeddingStore

No ComfyUI; nothing is opened at import, and DuckDB is imported by the modules that need it: database, store.
"""
