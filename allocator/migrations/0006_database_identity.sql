-- What a database is known by. A copy of it is the same one: it has the same row.
CREATE TABLE database (
    id     INTEGER NOT NULL CONSTRAINT one_database PRIMARY KEY CHECK (id = 1),
    -- random, lower-case hexadecimal
    name   TEXT NOT NULL,
    -- random; whoever has it can make marks of this database
    secret BLOB NOT NULL,
    -- 0 as long as nothing but what Services showed was given
    opened INTEGER NOT NULL CONSTRAINT yes_or_no CHECK (opened IN (0, 1))
) STRICT;

INSERT INTO database
SELECT 1, lower(hex(randomblob(16))), randomblob(32), EXISTS (SELECT 1 FROM history);

-- A row of kind CLUSTER that names none is about the database: it was opened.
DROP TRIGGER history_cluster;
CREATE TRIGGER history_cluster AFTER INSERT ON history
WHEN NEW.kind = 'CLUSTER' AND NEW.cluster <> ''
BEGIN
    INSERT OR REPLACE INTO clusters VALUES (NEW.cluster, NEW.details);
END;

CREATE TRIGGER history_opened AFTER INSERT ON history
WHEN NEW.kind = 'CLUSTER' AND NEW.cluster = ''
BEGIN
    UPDATE database SET opened = 1;
END;
