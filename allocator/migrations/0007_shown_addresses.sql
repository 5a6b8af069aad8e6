-- A conflict is of a Service whose status shows an address that it does not hold: several
-- for each Service, and of several kinds. What a Service gave up and still shows is one of
-- these, rather than a reservation from the Service and for it.

CREATE TABLE shown_addresses (
    -- an address that is shown and not held, as in history
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
    -- JSON: as of an allocation, and `kind` where it is no claim
    details      TEXT,
    -- when that was noticed, in milliseconds since 1970
    since        INTEGER NOT NULL,
    CONSTRAINT one_conflict_per_service_and_address
        PRIMARY KEY (cluster, namespace, name, address)
) STRICT;

INSERT INTO shown_addresses SELECT * FROM conflicts;
INSERT OR IGNORE INTO shown_addresses
SELECT address, iif(instr(address, ':') > 0, 6, 4), cluster, namespace, name,
       NULL, NULL, NULL, NULL, '{"kind":"SHOWN"}', unixepoch() * 1000
FROM reservations
WHERE json_extract(details, '$.from.cluster') = cluster
  AND json_extract(details, '$.from.namespace') = namespace
  AND json_extract(details, '$.from.name') = name;
DELETE FROM reservations
WHERE json_extract(details, '$.from.cluster') = cluster
  AND json_extract(details, '$.from.namespace') = namespace
  AND json_extract(details, '$.from.name') = name;

DROP TRIGGER history_conflicted;
DROP TRIGGER history_conflict_ended;
DROP TABLE conflicts;
ALTER TABLE shown_addresses RENAME TO conflicts;

CREATE TRIGGER history_conflicted AFTER INSERT ON history WHEN NEW.kind = 'CONFLICTED'
BEGIN
    INSERT INTO conflicts
    VALUES (NEW.address, NEW.family, NEW.cluster, NEW.namespace, NEW.name, NEW.uid,
            NEW.replaced_uid, NEW.cluster_ip, NEW.sharing_key, NEW.details, NEW.at)
    ON CONFLICT (cluster, namespace, name, address) DO UPDATE
    SET uid = NEW.uid, replaced_uid = NEW.replaced_uid, cluster_ip = NEW.cluster_ip,
        sharing_key = NEW.sharing_key, details = NEW.details;
END;

CREATE TRIGGER history_conflict_ended AFTER INSERT ON history WHEN NEW.kind = 'CONFLICT_ENDED'
BEGIN
    DELETE FROM conflicts
    WHERE address = NEW.address
      AND cluster = NEW.cluster AND namespace = NEW.namespace AND name = NEW.name;
    SELECT RAISE(ABORT, 'a Service was not in conflict about an address') WHERE changes() <> 1;
END;
