-- Every change is one row of `history`; triggers keep the other tables equal to
-- what history says. So a batch of changes is one INSERT, hence one
-- transaction, and nothing changes without being recorded.

CREATE TABLE history (
    -- number of the change, without gaps
    revision     INTEGER NOT NULL CONSTRAINT one_change_per_revision PRIMARY KEY,
    -- milliseconds since 1970-01-01T00:00:00Z; never less than in the row before
    at           INTEGER NOT NULL,
    kind         TEXT NOT NULL
        CONSTRAINT known_kind CHECK (
            kind IN ('ALLOCATED', 'RELEASED', 'UPDATED', 'RESERVED', 'UNRESERVED',
                     'CONFLICTED', 'CONFLICT_ENDED', 'CLUSTER')
        ),
    -- canonical text (RFC 5952); empty where a cluster changed
    address      TEXT NOT NULL,
    -- 4 or 6; 0 where a cluster changed
    family       INTEGER NOT NULL CONSTRAINT known_family CHECK (family IN (0, 4, 6)),
    -- the pool that the address was taken from; empty unless it is held
    pool         TEXT NOT NULL,
    -- the Service: cluster, namespace, name; empty for reservations for nobody;
    -- the cluster alone where that changed
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    -- metadata.uid of the Service, if known
    uid          TEXT,
    -- the uid of the Service of that name before it, if it took over from one
    replaced_uid TEXT,
    -- spec.clusterIP of the Service, if known
    cluster_ip   TEXT,
    -- its sharing key; NULL where it shares with nobody
    sharing_key  TEXT,
    -- JSON: the other terms of sharing, the labels, when it is taken back; of a
    -- reservation its comment, expiry and source; of a cluster its state
    details      TEXT
) STRICT;

CREATE TABLE allocations (
    -- as in history
    address      TEXT NOT NULL,
    family       INTEGER NOT NULL,
    pool         TEXT NOT NULL,
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    uid          TEXT,
    replaced_uid TEXT,
    cluster_ip   TEXT,
    sharing_key  TEXT,
    details      TEXT,
    -- when the Service got the address, in milliseconds since 1970
    since        INTEGER NOT NULL,
    -- the change that made this row what it is
    revision     INTEGER NOT NULL,
    CONSTRAINT one_address_per_service_and_family
        PRIMARY KEY (cluster, namespace, name, family)
) STRICT;

CREATE INDEX allocations_by_address ON allocations (address);
CREATE UNIQUE INDEX one_holder_per_address ON allocations (address) WHERE sharing_key IS NULL;

CREATE TRIGGER allocations_are_shared_by_agreement BEFORE INSERT ON allocations
BEGIN
    SELECT RAISE(ABORT, 'an address was given to Services that do not share it')
    WHERE EXISTS (
        SELECT 1 FROM allocations
        WHERE address = NEW.address
          AND (sharing_key IS NULL OR NEW.sharing_key IS NULL
               OR sharing_key <> NEW.sharing_key OR cluster <> NEW.cluster)
    );
END;

CREATE TABLE last_held (
    -- an address that nobody holds, as in history
    address      TEXT NOT NULL CONSTRAINT one_last_holder_per_address PRIMARY KEY,
    family       INTEGER NOT NULL,
    -- the Service that held it last; of what it held it gets back the latest that
    -- nobody took
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    -- when it was released, in milliseconds since 1970
    released_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE reservations (
    -- as in history
    address      TEXT NOT NULL CONSTRAINT one_reservation_per_address PRIMARY KEY,
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    details      TEXT
) STRICT;

CREATE TABLE conflicts (
    -- an address that others hold, as in history
    address      TEXT NOT NULL,
    family       INTEGER NOT NULL,
    -- the Service that shows it, as in history
    cluster      TEXT NOT NULL,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    uid          TEXT,
    replaced_uid TEXT,
    cluster_ip   TEXT,
    sharing_key  TEXT,
    details      TEXT,
    -- when that was noticed, in milliseconds since 1970
    since        INTEGER NOT NULL,
    CONSTRAINT one_conflict_per_service_and_family
        PRIMARY KEY (cluster, namespace, name, family)
) STRICT;

CREATE TABLE clusters (
    -- the name of a cluster
    name         TEXT NOT NULL CONSTRAINT one_row_per_cluster PRIMARY KEY,
    -- JSON: its state
    details      TEXT NOT NULL
) STRICT;

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
    WHERE NOT EXISTS (SELECT 1 FROM allocations WHERE address = NEW.address);
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

CREATE TRIGGER history_cluster AFTER INSERT ON history WHEN NEW.kind = 'CLUSTER'
BEGIN
    INSERT OR REPLACE INTO clusters VALUES (NEW.cluster, NEW.details);
END;

CREATE TRIGGER history_is_append_only_update BEFORE UPDATE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

CREATE TRIGGER history_is_append_only_delete BEFORE DELETE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

-- Which pools were in force from when on.
CREATE TABLE configurations (
    id       INTEGER NOT NULL CONSTRAINT configuration_number PRIMARY KEY,
    -- the last revision that was decided before it
    revision INTEGER NOT NULL,
    -- milliseconds since 1970
    at       INTEGER NOT NULL,
    -- the pools as JSON, in the shape of the pools file
    pools    TEXT NOT NULL
) STRICT;

-- Written to, to find out whether the disk has room again.
CREATE TABLE probe (
    id     INTEGER NOT NULL CONSTRAINT one_probe PRIMARY KEY CHECK (id = 1),
    writes INTEGER NOT NULL
) STRICT;
