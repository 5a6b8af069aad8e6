-- A change is a row of `history` again, whose triggers keep the other tables equal to what
-- history says: through a view, SQLite opens the table and its index anew for each row.
-- What only the state needs, labels and terms of sharing, which may be long, goes through
-- history to the state and does not stay in it.

DROP VIEW changes;

DROP TRIGGER history_is_append_only_update;
CREATE TRIGGER history_is_append_only_update
BEFORE UPDATE OF revision, at, kind, address, family, pool, cluster, namespace, name, uid,
    replaced_uid, cluster_ip, sharing_key ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

CREATE TRIGGER history_keeps_its_details BEFORE UPDATE OF details ON history
WHEN NEW.details IS NOT NULL OR OLD.kind IN ('RESERVED', 'UNRESERVED', 'CLUSTER')
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

CREATE TRIGGER history_is_lean AFTER INSERT ON history
WHEN NEW.details IS NOT NULL AND NEW.kind NOT IN ('RESERVED', 'UNRESERVED', 'CLUSTER')
BEGIN
    UPDATE history SET details = NULL WHERE revision = NEW.revision;
END;

CREATE TRIGGER history_allocated AFTER INSERT ON history WHEN NEW.kind = 'ALLOCATED'
BEGIN
    INSERT INTO allocations
    VALUES (NEW.address, NEW.family, NEW.pool, NEW.cluster, NEW.namespace, NEW.name,
            NEW.uid, NEW.replaced_uid, NEW.cluster_ip, NEW.sharing_key, NEW.details,
            NEW.at, NEW.revision);
    DELETE FROM last_held WHERE address = NEW.address;
END;

CREATE TRIGGER history_released AFTER INSERT ON history WHEN NEW.kind = 'RELEASED'
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

CREATE TRIGGER history_updated AFTER INSERT ON history WHEN NEW.kind = 'UPDATED'
BEGIN
    UPDATE allocations
    SET pool = NEW.pool, uid = NEW.uid, replaced_uid = NEW.replaced_uid,
        cluster_ip = NEW.cluster_ip, sharing_key = NEW.sharing_key, details = NEW.details,
        revision = NEW.revision
    WHERE address = NEW.address AND family = NEW.family
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'an updated address was not held by that Service') WHERE changes() <> 1;
END;

CREATE TRIGGER history_reserved AFTER INSERT ON history WHEN NEW.kind = 'RESERVED'
BEGIN
    INSERT OR REPLACE INTO reservations
    VALUES (NEW.address, NEW.cluster, NEW.namespace, NEW.name, NEW.details);
END;

CREATE TRIGGER history_unreserved AFTER INSERT ON history WHEN NEW.kind = 'UNRESERVED'
BEGIN
    DELETE FROM reservations WHERE address = NEW.address;
    SELECT RAISE(ABORT, 'an address was not reserved') WHERE changes() <> 1;
END;

CREATE TRIGGER history_conflicted AFTER INSERT ON history WHEN NEW.kind = 'CONFLICTED'
BEGIN
    INSERT OR REPLACE INTO conflicts
    VALUES (NEW.address, NEW.family, NEW.cluster, NEW.namespace, NEW.name, NEW.uid,
            NEW.replaced_uid, NEW.cluster_ip, NEW.sharing_key, NEW.details, NEW.at);
END;

CREATE TRIGGER history_conflict_ended AFTER INSERT ON history WHEN NEW.kind = 'CONFLICT_ENDED'
BEGIN
    DELETE FROM conflicts
    WHERE address = NEW.address
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'a Service was not in conflict about an address') WHERE changes() <> 1;
END;

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
