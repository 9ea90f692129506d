-- Budgets are enforced: what happens beyond one, who is told, and a count of changes that followers read. Yes is 1, no is 0.

ALTER TABLE budgets ADD COLUMN on_exceed TEXT NOT NULL DEFAULT 'reject' CHECK (on_exceed IN ('reject', 'warn'));
ALTER TABLE budgets ADD COLUMN alert_at TEXT NOT NULL DEFAULT '[]' CHECK (json_typeof(alert_at::json) = 'array');
ALTER TABLE budgets ADD COLUMN strict BIGINT NOT NULL DEFAULT 0 CHECK (strict IN (0, 1));
ALTER TABLE budgets ADD COLUMN stop_streams BIGINT NOT NULL DEFAULT 0 CHECK (stop_streams IN (0, 1));
ALTER TABLE budgets ADD COLUMN deleted BIGINT NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1));
CREATE INDEX budgets_by_epoch ON budgets (epoch);

-- Followers were not told of budgets so far: no state that they know is of this history, so they read everything anew.
UPDATE meta SET mark = ('x' || md5(random()::text || clock_timestamp()::text))::bit(64)::bigint WHERE id = 1;
DELETE FROM change_marks;
