-- API keys, the secrets they may be proved with, and a counter that says whether anything has changed.
-- Times are microseconds since 1970 UTC.

CREATE TABLE api_keys (
    key_id     TEXT PRIMARY KEY NOT NULL CHECK (length(key_id) = 12),
    tenant_id  TEXT NOT NULL,
    team_id    TEXT,
    user_id    TEXT,
    name       TEXT,
    models     TEXT CHECK (models IS NULL OR (json_valid(models) AND json_type(models) = 'array')),
    plan       TEXT,
    role       TEXT,
    status     TEXT NOT NULL CHECK (status IN ('active', 'disabled', 'revoked')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key_secrets (
    key_id     TEXT NOT NULL REFERENCES api_keys (key_id),
    generation INTEGER NOT NULL CHECK (generation BETWEEN 1 AND 4294967295),
    kind       TEXT NOT NULL CHECK (kind IN ('hmac-sha256', 'sha256')),
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    pepper_id  TEXT CHECK ((kind = 'hmac-sha256') = (pepper_id IS NOT NULL)),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE key_epoch (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
) STRICT;

INSERT INTO key_epoch (id, value) VALUES (1, 0);
