-- Keys with their secrets, tenants, teams, users, plans, budgets, the audit log, kept answers, and a count of changes on
-- every row. Times are microseconds since 1970 UTC. Yes is 1, no is 0. Ids sort by their bytes, as in SQLite.

-- The store's own row: its name, the count of changes, a mark drawn by each change, how many keys there are.
CREATE TABLE meta (
    id        BIGINT PRIMARY KEY CHECK (id = 1),
    store     TEXT NOT NULL,
    epoch     BIGINT NOT NULL,
    mark      BIGINT NOT NULL,
    key_count BIGINT NOT NULL
);
INSERT INTO meta (id, store, epoch, mark, key_count) VALUES (1, '', 0, 0, 0);

-- Marks of the last changes: whether a follower's count is of this store's history.
CREATE TABLE change_marks (
    epoch BIGINT PRIMARY KEY,
    mark  BIGINT NOT NULL
);

CREATE TABLE api_keys (
    key_id            TEXT COLLATE "C" PRIMARY KEY CHECK (length(key_id) = 12),
    tenant_id         TEXT COLLATE "C" NOT NULL,
    team_id           TEXT,
    user_id           TEXT,
    name              TEXT,
    models            TEXT CHECK (json_typeof(models::json) = 'array'),
    endpoints         TEXT CHECK (json_typeof(endpoints::json) = 'array'),
    addresses         TEXT CHECK (json_typeof(addresses::json) = 'array'),
    plan              TEXT,
    roles             TEXT CHECK (json_typeof(roles::json) = 'array'),
    status            TEXT NOT NULL CHECK (status IN ('active', 'disabled', 'revoked')),
    terminate_streams BIGINT NOT NULL DEFAULT 0 CHECK (terminate_streams = 0 OR status = 'revoked'),
    created_at        BIGINT NOT NULL,
    expires_at        BIGINT,
    revoked_at        BIGINT CHECK ((status = 'revoked') = (revoked_at IS NOT NULL)),
    epoch             BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX api_keys_by_epoch ON api_keys (epoch);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, key_id);

CREATE TABLE api_key_secrets (
    key_id      TEXT COLLATE "C" NOT NULL REFERENCES api_keys (key_id),
    generation  BIGINT NOT NULL CHECK (generation BETWEEN 1 AND 4294967295),
    kind        TEXT NOT NULL CHECK (kind IN ('hmac-sha256', 'sha256')),
    hash        BYTEA NOT NULL CHECK (length(hash) = 32),
    pepper_id   TEXT CHECK ((kind = 'hmac-sha256') = (pepper_id IS NOT NULL)),
    created_at  BIGINT NOT NULL,
    valid_until BIGINT,
    PRIMARY KEY (key_id, generation)
);

CREATE TABLE tenants (
    tenant_id  TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT,
    plan       TEXT,
    models     TEXT CHECK (json_typeof(models::json) = 'array'),
    disabled   BIGINT NOT NULL CHECK (disabled IN (0, 1)),
    time_zone  TEXT,
    created_at BIGINT NOT NULL,
    deleted    BIGINT NOT NULL CHECK (deleted IN (0, 1)),
    epoch      BIGINT NOT NULL
);
CREATE INDEX tenants_by_epoch ON tenants (epoch);

CREATE TABLE teams (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    name       TEXT,
    plan       TEXT,
    models     TEXT CHECK (json_typeof(models::json) = 'array'),
    created_at BIGINT NOT NULL,
    deleted    BIGINT NOT NULL CHECK (deleted IN (0, 1)),
    epoch      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX teams_by_epoch ON teams (epoch);

CREATE TABLE users (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    name       TEXT,
    plan       TEXT,
    models     TEXT CHECK (json_typeof(models::json) = 'array'),
    created_at BIGINT NOT NULL,
    deleted    BIGINT NOT NULL CHECK (deleted IN (0, 1)),
    epoch      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX users_by_epoch ON users (epoch);

CREATE TABLE plans (
    plan       TEXT COLLATE "C" PRIMARY KEY,
    tenant_id  TEXT COLLATE "C",
    document   TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    deleted    BIGINT NOT NULL CHECK (deleted IN (0, 1)),
    epoch      BIGINT NOT NULL
);
CREATE INDEX plans_by_epoch ON plans (epoch);

CREATE TABLE budgets (
    budget_id       TEXT COLLATE "C" PRIMARY KEY,
    tenant_id       TEXT COLLATE "C" NOT NULL,
    level           TEXT NOT NULL CHECK (level IN ('tenant', 'team', 'user', 'key')),
    subject         TEXT CHECK ((level = 'tenant') = (subject IS NULL)),
    amount_nano_usd BIGINT NOT NULL CHECK (amount_nano_usd >= 0),
    period          TEXT NOT NULL CHECK (period IN ('day', 'month', 'prepaid')),
    created_at      BIGINT NOT NULL,
    epoch           BIGINT NOT NULL
);
CREATE INDEX budgets_by_tenant ON budgets (tenant_id, budget_id);

CREATE TABLE audit_log (
    id           BIGINT PRIMARY KEY,
    at           BIGINT NOT NULL,
    actor_kind   TEXT NOT NULL,
    actor_id     TEXT NOT NULL,
    actor_tenant TEXT,
    request_id   TEXT,
    action       TEXT NOT NULL,
    target       TEXT NOT NULL,
    tenant_id    TEXT COLLATE "C",
    state_before TEXT,
    state_after  TEXT
);
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, id);

-- A log that can be rewritten proves nothing.
CREATE FUNCTION weir_audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''the audit log is append-only''; END';
CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION weir_audit_log_is_append_only();

CREATE TABLE idempotency (
    scope           TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    fingerprint     TEXT NOT NULL,
    answer          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (scope, idempotency_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);
