-- Tenants, teams, users, plans, budgets, the audit log, kept answers; more on keys; a count of changes on every row.
-- Times are microseconds since 1970 UTC. Yes is 1, no is 0.

-- The store's own row: its name, the count of changes, a mark drawn by each change, how many keys there are.
CREATE TABLE meta (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    store     TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    mark      INTEGER NOT NULL,
    key_count INTEGER NOT NULL
) STRICT;

INSERT INTO meta (id, store, epoch, mark, key_count)
    SELECT 1, '', value, 0, (SELECT count(*) FROM api_keys) FROM key_epoch WHERE id = 1;
DROP TABLE key_epoch;

-- Marks of the last changes: whether a follower's count is of this store's history.
CREATE TABLE change_marks (
    epoch INTEGER PRIMARY KEY NOT NULL,
    mark  INTEGER NOT NULL
) STRICT;

ALTER TABLE api_keys ADD COLUMN endpoints TEXT
    CHECK (endpoints IS NULL OR (json_valid(endpoints) AND json_type(endpoints) = 'array'));
ALTER TABLE api_keys ADD COLUMN addresses TEXT
    CHECK (addresses IS NULL OR (json_valid(addresses) AND json_type(addresses) = 'array'));
ALTER TABLE api_keys ADD COLUMN roles TEXT
    CHECK (roles IS NULL OR (json_valid(roles) AND json_type(roles) = 'array'));
UPDATE api_keys SET roles = json_array(role) WHERE role IS NOT NULL;
ALTER TABLE api_keys DROP COLUMN role;
ALTER TABLE api_keys ADD COLUMN terminate_streams INTEGER NOT NULL DEFAULT 0
    CHECK (terminate_streams = 0 OR status = 'revoked');
ALTER TABLE api_keys ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
CREATE INDEX api_keys_by_epoch ON api_keys (epoch);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, key_id);

ALTER TABLE api_key_secrets ADD COLUMN valid_until INTEGER;

CREATE TABLE tenants (
    tenant_id  TEXT PRIMARY KEY NOT NULL,
    name       TEXT,
    plan       TEXT,
    models     TEXT CHECK (models IS NULL OR (json_valid(models) AND json_type(models) = 'array')),
    disabled   INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    time_zone  TEXT,
    created_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    epoch      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tenants_by_epoch ON tenants (epoch);

CREATE TABLE teams (
    tenant_id  TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT,
    plan       TEXT,
    models     TEXT CHECK (models IS NULL OR (json_valid(models) AND json_type(models) = 'array')),
    created_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    epoch      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX teams_by_epoch ON teams (epoch);

CREATE TABLE users (
    tenant_id  TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT,
    plan       TEXT,
    models     TEXT CHECK (models IS NULL OR (json_valid(models) AND json_type(models) = 'array')),
    created_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    epoch      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX users_by_epoch ON users (epoch);

CREATE TABLE plans (
    plan       TEXT PRIMARY KEY NOT NULL,
    tenant_id  TEXT,
    document   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    epoch      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX plans_by_epoch ON plans (epoch);

CREATE TABLE budgets (
    budget_id       TEXT PRIMARY KEY NOT NULL,
    tenant_id       TEXT NOT NULL,
    level           TEXT NOT NULL CHECK (level IN ('tenant', 'team', 'user', 'key')),
    subject         TEXT CHECK ((level = 'tenant') = (subject IS NULL)),
    amount_nano_usd INTEGER NOT NULL CHECK (amount_nano_usd >= 0),
    period          TEXT NOT NULL CHECK (period IN ('day', 'month', 'prepaid')),
    created_at      INTEGER NOT NULL,
    epoch           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX budgets_by_tenant ON budgets (tenant_id, budget_id);

CREATE TABLE audit_log (
    id           INTEGER PRIMARY KEY NOT NULL,
    at           INTEGER NOT NULL,
    actor_kind   TEXT NOT NULL,
    actor_id     TEXT NOT NULL,
    actor_tenant TEXT,
    request_id   TEXT,
    action       TEXT NOT NULL,
    target       TEXT NOT NULL,
    tenant_id    TEXT,
    state_before TEXT,
    state_after  TEXT
) STRICT;
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, id);

-- A log that can be rewritten proves nothing. OR REPLACE would delete without a DELETE, so a taken id is refused too.
CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
    BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TABLE idempotency (
    scope           TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    answer          TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (scope, idempotency_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_at);
