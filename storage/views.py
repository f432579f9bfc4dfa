"""Views for people: what any DuckDB client shows of a store.

SELECT * FROM embeddings ORDER BY last_access DESC;
SELECT * FROM operations_by_type;
SELECT * FROM lineage WHERE result = 'sunset minus noon';
SELECT * FROM ancestry WHERE result = 'sunset minus noon';
SELECT * FROM storage_metrics;
"""

from __future__ import annotations

from .database import Cursor

VIEWS: dict[str, tuple[str, str]] = {
    "embedding_parts": (
        "One row for each tensor of each embedding; position 0 is the first.",
        """
        SELECT embedding_id, position - 1 AS position, parts[position].role AS role,
               parts[position].content_hash AS content_hash, parts[position].dtype AS dtype,
               parts[position].shape AS shape, parts[position].device AS device
        FROM (SELECT embedding_id, parts, unnest(range(1, len(parts) + 1)) AS position FROM embedding_entries)
        """,
    ),
    "embeddings": (
        "One row for each embedding and name; raw_bytes as handed in, stored_bytes on disk before sharing.",
        """
        SELECT e.embedding_id, n.name, e.prompt, e.negative_prompt, e.kind, e.form,
               len(e.parts) AS tensors, c.row_count AS tokens, c.column_count AS width,
               e.parts[e.main_part + 1].dtype AS dtype, e.parts[e.main_part + 1].shape AS shape,
               coalesce(t.tags, []::VARCHAR[]) AS tags, n.note,
               coalesce(u.access_count, 0) AS access_count, coalesce(u.last_access, e.created) AS last_access,
               e.created, e.raw_bytes, s.stored_bytes, e.embedding_hash,
               e.parts[e.main_part + 1].content_hash AS content_hash
        FROM embedding_entries e
        LEFT JOIN embedding_names n USING (embedding_id)
        LEFT JOIN embedding_usage u USING (embedding_id)
        LEFT JOIN contents c ON c.content_hash = e.parts[e.main_part + 1].content_hash
        LEFT JOIN (SELECT embedding_id, list(DISTINCT tag ORDER BY tag) AS tags FROM embedding_tags GROUP BY ALL) t
            USING (embedding_id)
        LEFT JOIN (SELECT p.embedding_id, sum(c.stored_bytes)::BIGINT AS stored_bytes
                   FROM embedding_parts p JOIN contents c USING (content_hash) GROUP BY ALL) s USING (embedding_id)
        """,
    ),
    "operations_by_type": (
        "How often each operation ran, its time in ms and its memory in bytes.",
        """
        SELECT operation_type, count(*) AS operations, avg(duration_ms) AS mean_ms, median(duration_ms) AS median_ms,
               max(duration_ms) AS max_ms, avg(peak_memory_bytes)::BIGINT AS mean_peak_memory_bytes,
               max(peak_memory_bytes) AS max_peak_memory_bytes, max(created) AS last_run
        FROM vector_operations GROUP BY operation_type ORDER BY operations DESC, operation_type
        """,
    ),
    "embedding_labels": (
        "What to call each embedding: its first name, else its prompt, else its number.",
        """
        SELECT e.embedding_id, coalesce(min(n.name), any_value(e.prompt), '#' || e.embedding_id) AS label
        FROM embedding_entries e LEFT JOIN embedding_names n USING (embedding_id) GROUP BY e.embedding_id
        """,
    ),
    "lineage": (
        "Which inputs, weights and parameters made each result: one row for each input.",
        """
        SELECT o.result_id, r.label AS result, o.operation_id, o.operation_type, i.position, i.role, i.weight,
               i.embedding_id AS input_id, coalesce(l.label, '#' || i.embedding_id || ' (removed)') AS input,
               p.parameters, o.duration_ms, o.peak_memory_bytes, o.created
        FROM vector_operations o
        LEFT JOIN operation_inputs i USING (operation_id)
        LEFT JOIN embedding_labels r ON r.embedding_id = o.result_id
        LEFT JOIN embedding_labels l ON l.embedding_id = i.embedding_id
        LEFT JOIN (SELECT operation_id, string_agg(name || '=' || value, ', ' ORDER BY name) AS parameters
                   FROM operation_parameters GROUP BY operation_id) p USING (operation_id)
        """,
    ),
    "ancestry": (
        "Everything that a result was made from, step by step back; depth 1 is its direct inputs.",
        """
        WITH RECURSIVE steps AS (
            SELECT result_id, input_id, 1 AS depth FROM lineage
            WHERE result_id IS NOT NULL AND input_id IS NOT NULL AND input_id <> result_id
            UNION
            SELECT s.result_id, l.input_id, s.depth + 1 FROM steps s JOIN lineage l ON l.result_id = s.input_id
            WHERE l.input_id IS NOT NULL AND l.input_id <> s.result_id AND s.depth < 32)
        SELECT s.result_id, r.label AS result, min(s.depth) AS depth, s.input_id AS ancestor_id, a.label AS ancestor
        FROM steps s LEFT JOIN embedding_labels r ON r.embedding_id = s.result_id
        LEFT JOIN embedding_labels a ON a.embedding_id = s.input_id
        GROUP BY s.result_id, r.label, s.input_id, a.label
        """,
    ),
    "storage_metrics": (
        "Size of what is stored, by kind and dtype; raw_bytes / stored_bytes is the compression.",
        """
        SELECT e.kind, p.dtype, c.stored, count(*) AS tensors, count(DISTINCT p.content_hash) AS distinct_tensors,
               sum(c.row_count)::BIGINT AS token_rows,
               sum(coalesce(list_product(p.shape), 1) * CASE WHEN p.dtype IN ('float64', 'int64') THEN 8
                   WHEN p.dtype IN ('float32', 'int32') THEN 4
                   WHEN p.dtype IN ('float16', 'bfloat16', 'int16') THEN 2 ELSE 1 END)::BIGINT AS raw_bytes,
               sum(c.stored_bytes)::BIGINT AS stored_bytes
        FROM embedding_entries e JOIN embedding_parts p USING (embedding_id) JOIN contents c USING (content_hash)
        GROUP BY ALL ORDER BY stored_bytes DESC
        """,
    ),
}


def create_views(cursor: Cursor) -> None:
    """Create or replace every view, with its description as a comment."""
    for name, (comment, query) in VIEWS.items():
        cursor.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
        text = comment.replace("'", "''")
        cursor.execute(f"COMMENT ON VIEW {name} IS '{text}'")
