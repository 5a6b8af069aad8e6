-- A change is written into the view `changes`, whose triggers record it in `history`
-- and keep the other tables equal to what history says. What only the state needs,
-- labels and terms of sharing, which may be long, does not go into history.

CREATE VIEW changes AS SELECT * FROM history;

DROP TRIGGER history_allocated;
DROP TRIGGER history_released;
DROP TRIGGER history_updated;
DROP TRIGGER history_reserved;
DROP TRIGGER history_unreserved;
DROP TRIGGER history_conflicted;
DROP TRIGGER history_conflict_ended;
DROP TRIGGER history_cluster;
DROP TRIGGER history_opened;

CREATE TRIGGER change_recorded INSTEAD OF INSERT ON changes
BEGIN
    INSERT INTO history
    VALUES (NEW.revision, NEW.at, NEW.kind, NEW.address, NEW.family, NEW.pool, NEW.cluster,
            NEW.namespace, NEW.name, NEW.uid, NEW.replaced_uid, NEW.cluster_ip,
            NEW.sharing_key,
            CASE WHEN NEW.kind IN ('RESERVED', 'UNRESERVED', 'CLUSTER') THEN NEW.details END);
END;

CREATE TRIGGER change_allocated INSTEAD OF INSERT ON changes WHEN NEW.kind = 'ALLOCATED'
BEGIN
    INSERT INTO allocations
    VALUES (NEW.address, NEW.family, NEW.pool, NEW.cluster, NEW.namespace, NEW.name,
            NEW.uid, NEW.replaced_uid, NEW.cluster_ip, NEW.sharing_key, NEW.details,
            NEW.at, NEW.revision);
    DELETE FROM last_held WHERE address = NEW.address;
END;

CREATE TRIGGER change_released INSTEAD OF INSERT ON changes WHEN NEW.kind = 'RELEASED'
BEGIN
    DELETE FROM allocations
    WHERE address = NEW.address AND family = NEW.family
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'a released address was not held by that Service') WHERE changes() <> 1;
    -- The last one out may come back to the address.
    INSERT INTO last_held
    SELECT NEW.address, NEW.family, NEW.cluster, NEW.namespace, NEW.name, NEW.at
    WHERE NOT EXISTS (
        SELECT 1 FROM allocations WHERE address = NEW.address AND sharing_key IS NULL
    ) AND NOT EXISTS (
        SELECT 1 FROM allocations WHERE address = NEW.address AND sharing_key IS NOT NULL
    );
END;

CREATE TRIGGER change_updated INSTEAD OF INSERT ON changes WHEN NEW.kind = 'UPDATED'
BEGIN
    UPDATE allocations
    SET pool = NEW.pool, uid = NEW.uid, replaced_uid = NEW.replaced_uid,
        cluster_ip = NEW.cluster_ip, sharing_key = NEW.sharing_key, details = NEW.details,
        revision = NEW.revision
    WHERE address = NEW.address AND family = NEW.family
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'an updated address was not held by that Service') WHERE changes() <> 1;
END;

CREATE TRIGGER change_reserved INSTEAD OF INSERT ON changes WHEN NEW.kind = 'RESERVED'
BEGIN
    INSERT OR REPLACE INTO reservations
    VALUES (NEW.address, NEW.cluster, NEW.namespace, NEW.name, NEW.details);
END;

CREATE TRIGGER change_unreserved INSTEAD OF INSERT ON changes WHEN NEW.kind = 'UNRESERVED'
BEGIN
    DELETE FROM reservations WHERE address = NEW.address;
    SELECT RAISE(ABORT, 'an address was not reserved') WHERE changes() <> 1;
END;

CREATE TRIGGER change_conflicted INSTEAD OF INSERT ON changes WHEN NEW.kind = 'CONFLICTED'
BEGIN
    INSERT OR REPLACE INTO conflicts
    VALUES (NEW.address, NEW.family, NEW.cluster, NEW.namespace, NEW.name, NEW.uid,
            NEW.replaced_uid, NEW.cluster_ip, NEW.sharing_key, NEW.details, NEW.at);
END;

CREATE TRIGGER change_conflict_ended INSTEAD OF INSERT ON changes WHEN NEW.kind = 'CONFLICT_ENDED'
BEGIN
    DELETE FROM conflicts
    WHERE address = NEW.address
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'a Service was not in conflict about an address') WHERE changes() <> 1;
END;

CREATE TRIGGER change_of_cluster INSTEAD OF INSERT ON changes
WHEN NEW.kind = 'CLUSTER' AND NEW.cluster <> ''
BEGIN
    INSERT OR REPLACE INTO clusters VALUES (NEW.cluster, NEW.details);
END;

CREATE TRIGGER change_opened INSTEAD OF INSERT ON changes
WHEN NEW.kind = 'CLUSTER' AND NEW.cluster = ''
BEGIN
    UPDATE database SET opened = 1;
END;

-- Up to where rows of history may have been removed because of their age or number. The
-- last change of what is held stays, and so does the newest row.
CREATE TABLE history_floor (
    id       INTEGER NOT NULL CONSTRAINT one_floor PRIMARY KEY CHECK (id = 1),
    -- the last revision that may be missing
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO history_floor VALUES (1, 0);

DROP TRIGGER history_is_append_only_delete;
CREATE TRIGGER history_is_append_only_delete BEFORE DELETE ON history
WHEN OLD.revision > (SELECT revision FROM history_floor)
    OR EXISTS (
        SELECT 1 FROM allocations
        WHERE cluster = OLD.cluster AND namespace = OLD.namespace AND name = OLD.name
          AND family = OLD.family AND revision = OLD.revision
    )
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;
