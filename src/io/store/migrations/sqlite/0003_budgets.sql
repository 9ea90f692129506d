-- Budgets are enforced: what happens beyond one, who is told, and a count of changes that followers read. Yes is 1, no is 0.

ALTER TABLE budgets ADD COLUMN on_exceed TEXT NOT NULL DEFAULT 'reject' CHECK (on_exceed IN ('reject', 'warn'));
ALTER TABLE budgets ADD COLUMN alert_at TEXT NOT NULL DEFAULT '[]'
    CHECK (json_valid(alert_at) AND json_type(alert_at) = 'array');
ALTER TABLE budgets ADD COLUMN strict INTEGER NOT NULL DEFAULT 0 CHECK (strict IN (0, 1));
ALTER TABLE budgets ADD COLUMN stop_streams INTEGER NOT NULL DEFAULT 0 CHECK (stop_streams IN (0, 1));
ALTER TABLE budgets ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1));
CREATE INDEX budgets_by_epoch ON budgets (epoch);

-- Followers were not told of budgets so far: no state that they know is of this history, so they read everything anew.
UPDATE meta SET mark = random() WHERE id = 1;
DELETE FROM change_marks;
