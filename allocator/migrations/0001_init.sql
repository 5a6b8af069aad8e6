-- Every change is one row of `history`; triggers keep the other tables equal to
-- what history says. So a batch of changes is one INSERT, hence one
-- transaction, and nothing changes without being recorded.

CREATE TABLE history (
    -- number of the change, without gaps
    revision     INTEGER NOT NULL CONSTRAINT one_change_per_revision PRIMARY KEY,
    -- milliseconds since 1970-01-01T00:00:00Z; never less than in the row before
    at           INTEGER NOT NULL,
    kind         TEXT NOT NULL
        CONSTRAINT known_kind CHECK (kind IN ('ALLOCATED', 'RELEASED', 'UPDATED')),
    -- canonical text (RFC 5952)
    address      TEXT NOT NULL,
    -- 4 or 6
    family       INTEGER NOT NULL CONSTRAINT known_family CHECK (family IN (4, 6)),
    -- the pool that the address was taken from
    pool         TEXT NOT NULL,
    -- the Service: cluster, namespace, name
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    -- metadata.uid of the Service, if known
    uid          TEXT,
    -- the uid of the Service of that name before it, if it took over from one
    replaced_uid TEXT,
    -- spec.clusterIP of the Service, if known
    cluster_ip   TEXT
) STRICT;

CREATE TABLE allocations (
    -- as in history
    address      TEXT NOT NULL CONSTRAINT one_holder_per_address PRIMARY KEY,
    family       INTEGER NOT NULL,
    pool         TEXT NOT NULL,
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    uid          TEXT,
    replaced_uid TEXT,
    cluster_ip   TEXT,
    -- when the Service got the address, in milliseconds since 1970
    since        INTEGER NOT NULL,
    -- the change that made this row what it is
    revision     INTEGER NOT NULL,
    CONSTRAINT one_address_per_service_and_family UNIQUE (cluster, namespace, name, family)
) STRICT;

CREATE TABLE last_held (
    -- a free address, as in history
    address      TEXT NOT NULL CONSTRAINT one_last_holder_per_address PRIMARY KEY,
    family       INTEGER NOT NULL,
    -- the Service that held it last and gets it back while nobody took it
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    -- when it was released, in milliseconds since 1970
    released_at  INTEGER NOT NULL,
    CONSTRAINT one_last_address_per_service_and_family UNIQUE (cluster, namespace, name, family)
) STRICT;

CREATE TRIGGER history_allocated AFTER INSERT ON history WHEN NEW.kind = 'ALLOCATED'
BEGIN
    INSERT INTO allocations
    VALUES (NEW.address, NEW.family, NEW.pool, NEW.cluster, NEW.namespace, NEW.name,
            NEW.uid, NEW.replaced_uid, NEW.cluster_ip, NEW.at, NEW.revision);
    DELETE FROM last_held WHERE address = NEW.address;
END;

CREATE TRIGGER history_released AFTER INSERT ON history WHEN NEW.kind = 'RELEASED'
BEGIN
    DELETE FROM allocations
    WHERE address = NEW.address
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'a released address was not held by that Service') WHERE changes() <> 1;
    DELETE FROM last_held
    WHERE cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name
      AND family = NEW.family;
    INSERT INTO last_held
    VALUES (NEW.address, NEW.family, NEW.cluster, NEW.namespace, NEW.name, NEW.at);
END;

CREATE TRIGGER history_updated AFTER INSERT ON history WHEN NEW.kind = 'UPDATED'
BEGIN
    UPDATE allocations
    SET pool = NEW.pool, uid = NEW.uid, replaced_uid = NEW.replaced_uid,
        cluster_ip = NEW.cluster_ip, revision = NEW.revision
    WHERE address = NEW.address
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'an updated address was not held by that Service') WHERE changes() <> 1;
END;

CREATE TRIGGER history_is_append_only_update BEFORE UPDATE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

CREATE TRIGGER history_is_append_only_delete BEFORE DELETE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

-- Written to, to find out whether the disk has room again.
CREATE TABLE probe (
    id     INTEGER NOT NULL CONSTRAINT one_probe PRIMARY KEY CHECK (id = 1),
    writes INTEGER NOT NULL
) STRICT;
