//! The functions that write a source store, one call a mutation.
//!
//! Each takes the stream's row lock in a statement of its own, and draws ids and log sequence after
//! it: statements of a function that is not STABLE see what was committed before each of them
//! began. A whole mutation is one round trip, and works the same within a caller's transaction.
//! None of them raises an error for what a caller may get wrong, since that would end the caller's
//! transaction: they answer a status.

/// Where the functions tell what they do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told<'a> {
    /// In the log's table, as the caller says.
    AsAsked,
    /// In the log's table, whatever the caller says: one that opened the store when it was otherwise
    /// would else write what no reader ever sees.
    Always,
    /// In the write-ahead log, by messages of this prefix, see [`super::wal`].
    ByMessage(&'a str),
}

/// The SQL texts, to be run through [`Tables::sql`](super::Tables::sql).
pub(super) fn definitions(told: Told<'_>) -> Vec<String> {
    let tell = |what: &str| match told {
        Told::ByMessage(prefix) => {
            format!("PERFORM pg_logical_emit_message(true, '{prefix}', {what});")
        }
        Told::AsAsked | Told::Always => String::new(),
    };
    let check = |asked: &str| match told {
        Told::Always => format!("IF NOT ({asked}) THEN RAISE EXCEPTION '{STALE}'; END IF;"),
        Told::AsAsked | Told::ByMessage(_) => String::new(),
    };
    let places = [
        ("/*durable*/", DURABLE.to_owned()),
        ("/*check append*/", check("cardinality(p_ends) > 0")),
        ("/*check*/", check("p_log")),
        ("/*tell append*/", tell(APPENDING)),
        ("/*tell trim*/", tell(TRIMMED)),
        ("/*tell rename*/", tell(RENAMED)),
        ("/*tell label*/", tell(LABELLED)),
    ];
    [APPEND, APPEND_ALL, TRIM, RENAME, LABEL]
        .iter()
        .map(|body| {
            let places = places.iter();
            places.fold((*body).to_owned(), |body, (place, what)| {
                body.replace(place, what)
            })
        })
        .collect()
}

const STALE: &str = "the log of this store was switched; open the store anew";

/// What the messages say: the kind, the stream's key, the version of its name, a number, its name.
/// The number is, before the rows of an append, how many entries the stream ever had; of a trim, the
/// highest id that it removed.
const APPENDING: &str =
    "'a ' || v_key || ' ' || v_name_version || ' ' || v_version || ' ' || p_stream";
const TRIMMED: &str = "'t ' || v_key || ' ' || v_name_version || ' ' || v_max || ' ' || p_stream";
const RENAMED: &str = "'r ' || v_key || ' ' || (v_name_version + 1) || ' 0 ' || p_to";
const LABELLED: &str = "'l ' || p_key || ' ' || p_name_version || ' 0 ' || p_name";

/// With `synchronous_commit` off a reader may be ahead of the log after a crash.
const DURABLE: &str = "IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;";

/// Status 0: appended, `ids` has one an entry, negative for a duplicate (the id of the entry that
/// has its dedup key). Status 1: not the expected version, `version` is the actual one.
/// `p_expected`: -1 any, -2 exists, else exactly. `p_ends` and `p_bodies`: the log rows; empty
/// without a log.
const APPEND: &str = "CREATE OR REPLACE FUNCTION {append}(
    p_stream text, p_expected bigint, p_json text[], p_bytes bytea[], p_order text[],
    p_dedup text[], p_schema int[], p_metadata text[], p_tags text[], p_ends int[], p_bodies bytea[],
    OUT status int, OUT version bigint, OUT ids bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    v_key bigint; v_version bigint; v_name_version bigint; v_n int := cardinality(p_json);
    v_keyed boolean := p_dedup IS NOT NULL; v_at timestamptz; v_new bigint[]; v_kept int;
    v_from int := 1; v_ids bigint[]; v_counted boolean := false;
BEGIN
    /*durable*/
    /*check append*/
    -- Without dedup keys every entry will be kept: the stream is locked and counted in one.
    IF NOT v_keyed THEN
        UPDATE {streams} s SET version = s.version + v_n, live = s.live + v_n
        WHERE s.name = p_stream AND (p_expected = -1 OR p_expected = s.version
            OR (p_expected = -2 AND s.version > 0))
        RETURNING s.key, s.version - v_n, s.name_version
        INTO v_key, v_version, v_name_version;
        v_counted := FOUND;
    END IF;
    WHILE NOT v_counted LOOP
        SELECT s.key, s.version, s.name_version INTO v_key, v_version, v_name_version
        FROM {streams} s WHERE s.name = p_stream FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        IF p_expected > 0 OR p_expected = -2 THEN
            status := 1; version := 0; RETURN;
        END IF;
        INSERT INTO {streams} AS s (name) VALUES (p_stream) ON CONFLICT (name) DO NOTHING;
    END LOOP;
    IF NOT v_counted AND p_expected <> -1 AND NOT (p_expected = v_version OR (p_expected = -2 AND v_version > 0)) THEN
        -- Dedup is decided first: all duplicates succeed whatever was expected.
        IF v_keyed THEN
            SELECT array_agg(-e.id ORDER BY u.ord) INTO ids
            FROM unnest(p_dedup) WITH ORDINALITY u(dedup, ord)
            JOIN {entries} e ON e.stream_key = v_key AND e.dedup_key = u.dedup
            WHERE u.dedup <> '';
        END IF;
        IF coalesce(cardinality(ids), 0) = v_n THEN
            status := 0; version := v_version; RETURN;
        END IF;
        status := 1; version := v_version; ids := NULL; RETURN;
    END IF;
    /*tell append*/
    v_at := clock_timestamp();
    v_ids := ARRAY(SELECT nextval('{ids}') FROM generate_series(1, v_n));
    IF v_keyed THEN
        WITH inserted AS (
            INSERT INTO {entries} AS e (id, stream_key, payload, payload_bytes, order_key, dedup_key,
                schema_version, metadata, tags, created_at)
            SELECT u.id, v_key, u.json::json, u.bytes, u.ord, u.dedup, u.schema,
                u.metadata::jsonb, u.tags::text[], v_at
            FROM unnest(v_ids, p_json, p_bytes, p_order, p_dedup, p_schema, p_metadata, p_tags)
                AS u(id, json, bytes, ord, dedup, schema, metadata, tags)
            ON CONFLICT (stream_key, dedup_key) WHERE dedup_key <> '' DO NOTHING
            RETURNING e.id)
        SELECT coalesce(array_agg(i.id), '{}') INTO v_new FROM inserted i;
        v_kept := cardinality(v_new);
    ELSE
        INSERT INTO {entries} (id, stream_key, payload, payload_bytes, order_key, schema_version,
            metadata, tags, created_at)
        SELECT u.id, v_key, u.json::json, u.bytes, u.ord, u.schema, u.metadata::jsonb,
            u.tags::text[], v_at
        FROM unnest(v_ids, p_json, p_bytes, p_order, p_schema, p_metadata, p_tags)
            AS u(id, json, bytes, ord, schema, metadata, tags);
        v_kept := v_n;
    END IF;
    IF v_kept < v_n THEN
        SELECT array_agg(CASE WHEN n.id IS NULL THEN -e.id ELSE n.id END ORDER BY u.ord)
        INTO v_ids
        FROM unnest(v_ids, p_dedup) WITH ORDINALITY u(id, dedup, ord)
        LEFT JOIN unnest(v_new) n(id) ON n.id = u.id
        LEFT JOIN {entries} e ON n.id IS NULL AND e.stream_key = v_key AND e.dedup_key = u.dedup
            AND u.dedup <> '';
    END IF;
    IF v_kept > 0 THEN
        IF NOT v_counted THEN
            UPDATE {streams} s SET version = v_version + v_kept, live = s.live + v_kept
            WHERE s.key = v_key;
        END IF;
        version := v_version + v_kept;
        FOR i IN 1..cardinality(p_ends) LOOP
            v_new := v_ids[v_from:p_ends[i]];
            IF v_kept < v_n THEN
                SELECT array_agg(greatest(l.id, 0) ORDER BY l.ord) INTO v_new
                FROM unnest(v_new) WITH ORDINALITY l(id, ord);
                v_version := v_version + (SELECT count(*) FROM unnest(v_new) l(id) WHERE l.id > 0);
            ELSE
                v_version := v_version + cardinality(v_new);
            END IF;
            IF v_kept = v_n OR (SELECT bool_or(l.id > 0) FROM unnest(v_new) l(id)) THEN
                INSERT INTO {log} (at, stream_key, stream_name, name_version, kind, ids, version,
                    body)
                VALUES (v_at, v_key, p_stream, v_name_version, 1, v_new, v_version, p_bodies[i]);
            END IF;
            v_from := p_ends[i] + 1;
        END LOOP;
    ELSE
        version := v_version;
    END IF;
    status := 0; ids := v_ids;
END $$";

/// Several appends, those of one stream side by side. The arrays hold the entries and the log rows
/// of one append behind those of another: `p_sizes` entries and `p_parts` log rows each. Answers a
/// row an append, as {append} does, and status 2 for one that was passed over.
///
/// Who holds the lock of one stream and waits for that of another can end in a deadlock, with
/// somebody else's transaction as its victim. So without `p_wait` only streams are taken whose locks
/// are free; with it, all must be of one stream.
const APPEND_ALL: &str = "CREATE OR REPLACE FUNCTION {append_all}(
    p_streams text[], p_expected bigint[], p_sizes int[], p_keyed boolean[], p_parts int[],
    p_wait boolean, p_json text[], p_bytes bytea[], p_order text[], p_dedup text[], p_schema int[],
    p_metadata text[], p_tags text[], p_ends int[], p_bodies bytea[])
RETURNS TABLE (status int, version bigint, ids bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    v_free text[]; v_from int := 1; v_to int; v_part_from int := 1; v_part_to int;
BEGIN
    IF NOT p_wait THEN
        v_free := ARRAY(SELECT s.name FROM {streams} s WHERE s.name = ANY (p_streams)
            FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    FOR i IN 1..cardinality(p_streams) LOOP
        v_to := v_from + p_sizes[i] - 1;
        v_part_to := v_part_from + p_parts[i] - 1;
        IF p_wait OR p_streams[i] = ANY (v_free) THEN
            SELECT a.status, a.version, a.ids INTO status, version, ids
            FROM {append}(p_streams[i], p_expected[i], p_json[v_from:v_to],
                p_bytes[v_from:v_to], p_order[v_from:v_to],
                CASE WHEN p_keyed[i] THEN p_dedup[v_from:v_to] END, p_schema[v_from:v_to],
                p_metadata[v_from:v_to], p_tags[v_from:v_to], p_ends[v_part_from:v_part_to],
                p_bodies[v_part_from:v_part_to]) a;
        ELSE
            status := 2; version := NULL; ids := NULL;
        END IF;
        RETURN NEXT;
        v_from := v_to + 1;
        v_part_from := v_part_to + 1;
    END LOOP;
END $$";

/// Answers how many entries were removed.
const TRIM: &str = "CREATE OR REPLACE FUNCTION {trim}(
    p_stream text, p_through bigint, p_log boolean, OUT removed bigint)
LANGUAGE plpgsql AS $$
DECLARE v_key bigint; v_name_version bigint; v_max bigint;
BEGIN
    /*durable*/
    /*check*/
    removed := 0;
    SELECT s.key, s.name_version INTO v_key, v_name_version
    FROM {streams} s WHERE s.name = p_stream FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    WITH gone AS (
        DELETE FROM {entries} e WHERE e.stream_key = v_key AND e.id <= p_through RETURNING e.id)
    SELECT count(*), max(g.id) INTO removed, v_max FROM gone g;
    IF removed = 0 THEN RETURN; END IF;
    UPDATE {streams} s SET live = s.live - removed, trimmed_through = v_max WHERE s.key = v_key;
    /*tell trim*/
    IF p_log THEN
        INSERT INTO {log} (at, stream_key, stream_name, name_version, kind, ids, version, body)
        VALUES (clock_timestamp(), v_key, p_stream, v_name_version, 4, ARRAY[v_max], 0, '');
    END IF;
END $$";

/// Status 0: done; 1: no such stream; 2: the new name is taken.
const RENAME: &str = "CREATE OR REPLACE FUNCTION {rename}(
    p_from text, p_to text, p_log boolean, OUT status int)
LANGUAGE plpgsql AS $$
DECLARE v_key bigint; v_name_version bigint;
BEGIN
    /*durable*/
    /*check*/
    SELECT s.key, s.name_version INTO v_key, v_name_version
    FROM {streams} s WHERE s.name = p_from FOR UPDATE;
    IF NOT FOUND THEN status := 1; RETURN; END IF;
    status := 0;
    IF p_from = p_to THEN RETURN; END IF;
    BEGIN
        UPDATE {streams} s SET name = p_to, name_version = v_name_version + 1 WHERE s.key = v_key;
    EXCEPTION WHEN unique_violation THEN
        status := 2; RETURN;
    END;
    /*tell rename*/
    IF p_log THEN
        INSERT INTO {log} (at, stream_key, stream_name, name_version, kind, ids, version, body)
        VALUES (clock_timestamp(), v_key, p_to, v_name_version + 1, 5, '{}', 0, '');
    END IF;
END $$";

/// Writes the labels of an entry whose row the caller has locked. `p_kind` 2: tags; 3: annotations.
const LABEL: &str = "CREATE OR REPLACE FUNCTION {label}(
    p_key bigint, p_name text, p_name_version bigint, p_id bigint, p_kind smallint, p_version bigint,
    p_tags text[], p_annotations text, p_log boolean, p_body bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE v_at timestamptz := clock_timestamp();
BEGIN
    /*durable*/
    /*check*/
    /*tell label*/
    IF p_kind = 2 THEN
        UPDATE {entries} e SET tags = p_tags, tags_version = p_version, updated_at = v_at
        WHERE e.id = p_id;
    ELSE
        UPDATE {entries} e SET annotations = p_annotations::jsonb, annotations_version = p_version,
            updated_at = v_at WHERE e.id = p_id;
    END IF;
    IF p_log THEN
        INSERT INTO {log} (at, stream_key, stream_name, name_version, kind, ids, version, body)
        VALUES (v_at, p_key, p_name, p_name_version, p_kind, ARRAY[p_id], p_version, p_body);
    END IF;
END $$";
