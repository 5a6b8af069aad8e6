-- What time it was when the allocator last ran, by its own clock. A start that finds the
-- machine's clock far from it does not believe that clock.

CREATE TABLE clock (
    id INTEGER NOT NULL CONSTRAINT one_clock PRIMARY KEY CHECK (id = 1),
    -- milliseconds since 1970; noted every few minutes
    at INTEGER NOT NULL
) STRICT;
