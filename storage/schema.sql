-- The tables of the embedding store. Open a copy of the file with any DuckDB client; the views at the end are for people.
--
-- No table has an index: DuckDB then gives the space of deleted rows back to later ones at a checkpoint, and a
-- checkpoint rewrites at most the last row group of a table (the store attaches the file with ROW_GROUP_SIZE 2048).
-- One writer at a time keeps ids, hashes and names unique.

CREATE TABLE meta(key VARCHAR NOT NULL, value VARCHAR NOT NULL);
INSERT INTO meta VALUES ('format', '2'), ('store', uuid()::VARCHAR), ('created', now()::VARCHAR),
    ('last_id', '0');                   -- the newest number of a row or a change

CREATE TABLE contents(                  -- one row for each distinct tensor
    content_id BIGINT NOT NULL,
    hash VARCHAR NOT NULL,              -- sha256 of the stored values before compression
    stored VARCHAR NOT NULL,            -- dtype on disk
    row_count BIGINT NOT NULL,          -- rows kept, without trailing zero rows
    column_count BIGINT NOT NULL,
    bytes BIGINT NOT NULL,              -- compressed
    vector BLOB USING COMPRESSION uncompressed);  -- direction of the mean row as float16, for searches
CREATE TABLE content_parts(             -- its compressed bytes; DuckDB moves values of 4096 bytes or more elsewhere
    content_id BIGINT NOT NULL, part INTEGER NOT NULL, data BLOB USING COMPRESSION uncompressed);

CREATE TABLE embeddings(
    embedding_id BIGINT NOT NULL,
    hash VARCHAR NOT NULL,              -- of the whole value
    structure VARCHAR NOT NULL,         -- JSON of the value, tensors as {"$tensor": position}
    main_id BIGINT NOT NULL,            -- content_id of the tensor that searches compare
    raw_bytes BIGINT NOT NULL,          -- of the tensors as they were handed in
    name VARCHAR, prompt VARCHAR, note VARCHAR NOT NULL, tags VARCHAR[] NOT NULL,
    kind VARCHAR NOT NULL,              -- raw, projected, hidden, other
    form VARCHAR NOT NULL,              -- host type, such as WANVIDEOTEXTEMBEDS
    cache_key VARCHAR,                  -- sha256 of what decides an encoder's result
    created TIMESTAMP NOT NULL);        -- UTC, as all times here
CREATE TABLE embedding_parts(           -- the tensors of each embedding
    embedding_id BIGINT NOT NULL, position INTEGER NOT NULL, role VARCHAR NOT NULL, content_id BIGINT NOT NULL,
    dtype VARCHAR NOT NULL, shape BIGINT[] NOT NULL, device VARCHAR NOT NULL);
CREATE TABLE embedding_usage(embedding_id BIGINT NOT NULL, reads BIGINT NOT NULL, used TIMESTAMP NOT NULL);

CREATE TABLE vector_operations(
    operation_id BIGINT NOT NULL, operation_type VARCHAR NOT NULL, result_id BIGINT, duration_ms DOUBLE,
    peak_memory_bytes BIGINT, device VARCHAR, node VARCHAR, created TIMESTAMP NOT NULL);
CREATE TABLE operation_inputs(
    operation_id BIGINT NOT NULL, position INTEGER NOT NULL, role VARCHAR NOT NULL, embedding_id BIGINT, weight DOUBLE);
CREATE TABLE operation_parameters(operation_id BIGINT NOT NULL, name VARCHAR NOT NULL, value VARCHAR);
CREATE TABLE embedding_analysis(        -- reports of the Analyzer, by the hash of what was analysed
    hash VARCHAR NOT NULL, analysis_type VARCHAR NOT NULL, result VARCHAR NOT NULL, created TIMESTAMP NOT NULL);
CREATE TABLE embedding_similarities(    -- neighbours that Search computed; valid while as_of is the newest embedding
    embedding_id BIGINT NOT NULL, other_id BIGINT NOT NULL, score DOUBLE NOT NULL, as_of BIGINT NOT NULL);

CREATE TABLE sweep_cells(               -- one row for each cell of a sweep that is done or has failed
    cell VARCHAR NOT NULL,              -- hash of its recipe
    recipe VARCHAR NOT NULL,            -- JSON: what it was sampled with
    result VARCHAR NOT NULL,            -- JSON: distances, read-outs, seconds; or an error
    strip BLOB,                         -- PNG of some frames
    latents_id BIGINT);                 -- embedding_id of the latents, kept of clips that others are compared with

-- One row for each embedding.
CREATE VIEW listing AS
    SELECT e.embedding_id, coalesce(e.name, e.prompt, '#' || e.embedding_id) AS label, e.name, e.prompt,
           e.note, e.kind, e.form, c.row_count AS tokens, c.column_count AS width, p.dtype,
           e.tags, coalesce(u.reads, 0) AS reads, coalesce(u.used, e.created) AS used,
           e.created, e.raw_bytes, coalesce(p.bytes, 0) AS bytes
    FROM embeddings e
    LEFT JOIN contents c ON c.content_id = e.main_id
    LEFT JOIN embedding_usage u USING (embedding_id)
    LEFT JOIN (SELECT embedding_id, arg_min(dtype, position) AS dtype, sum(bytes)::BIGINT AS bytes
               FROM embedding_parts JOIN contents USING (content_id) GROUP BY 1) p USING (embedding_id);

-- How often each operation ran, its time and its memory.
CREATE VIEW operations_by_type AS
    SELECT operation_type, count(*) AS runs, avg(duration_ms) AS mean_ms, median(duration_ms) AS median_ms,
           max(duration_ms) AS max_ms, max(peak_memory_bytes) AS peak_memory_bytes, max(created) AS last_run
    FROM vector_operations GROUP BY 1 ORDER BY runs DESC, operation_type;

-- Which inputs, weights and parameters made each result: one row for each input.
CREATE VIEW lineage AS
    WITH labels AS (SELECT embedding_id, coalesce(name, prompt, '#' || embedding_id) AS label FROM embeddings)
    SELECT o.result_id, r.label AS result, o.operation_id, o.operation_type, i.position, i.role, i.weight,
           i.embedding_id AS input_id, coalesce(l.label, '#' || i.embedding_id || ' (removed)') AS input,
           p.parameters, o.duration_ms, o.peak_memory_bytes, o.device, o.node, o.created
    FROM vector_operations o
    LEFT JOIN operation_inputs i USING (operation_id)
    LEFT JOIN labels r ON r.embedding_id = o.result_id
    LEFT JOIN labels l ON l.embedding_id = i.embedding_id
    LEFT JOIN (SELECT operation_id, string_agg(name || '=' || value, ', ' ORDER BY name) AS parameters
               FROM operation_parameters GROUP BY 1) p USING (operation_id);

-- Everything that a result was made from, step by step back; depth 1 is its direct inputs.
CREATE VIEW ancestry AS
    WITH RECURSIVE steps AS (
        SELECT result_id, input_id, 1 AS depth FROM lineage WHERE input_id <> result_id
        UNION
        SELECT s.result_id, l.input_id, s.depth + 1 FROM steps s JOIN lineage l ON l.result_id = s.input_id
        WHERE l.input_id <> s.result_id AND s.depth < 32)
    SELECT result_id, min(depth) AS depth, input_id AS ancestor_id FROM steps GROUP BY ALL;

-- Size by kind and dtype.
CREATE VIEW storage_metrics AS
    SELECT e.kind, p.dtype, c.stored, count(*) AS tensors, count(DISTINCT c.content_id) AS distinct_tensors,
           sum(c.row_count)::BIGINT AS token_rows, sum(c.bytes)::BIGINT AS bytes
    FROM embeddings e JOIN embedding_parts p USING (embedding_id) JOIN contents c USING (content_id)
    GROUP BY ALL ORDER BY bytes DESC;
