-- Calls that were refused because of who called. Kept beside `history`, which has
-- changes only. Equal ones share a row, and old rows make room for new ones.

CREATE TABLE denials (
    id       INTEGER NOT NULL CONSTRAINT denial_number PRIMARY KEY,
    -- the first and the last time, in milliseconds since 1970
    first_at INTEGER NOT NULL,
    last_at  INTEGER NOT NULL,
    -- how many times
    count    INTEGER NOT NULL,
    -- who called, as the certificate says; empty without one
    caller   TEXT NOT NULL,
    -- the role of the caller; empty without one
    role     TEXT NOT NULL,
    -- the RPC, without its service
    method   TEXT NOT NULL,
    -- the cluster that was asked for; empty where none was
    cluster  TEXT NOT NULL,
    -- why it was refused
    why      TEXT NOT NULL,
    CONSTRAINT one_row_for_equal_denials UNIQUE (caller, role, method, cluster, why)
) STRICT;

CREATE INDEX denials_by_time ON denials (last_at, id);
