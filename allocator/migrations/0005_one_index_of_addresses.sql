-- Each allocation in one index of addresses rather than two: an index is a page more to
-- write for each commit. Together the two partial ones find every holder of an address.

DROP INDEX allocations_by_address;
CREATE INDEX sharers_by_address ON allocations (address) WHERE sharing_key IS NOT NULL;

DROP TRIGGER allocations_are_shared_by_agreement;
CREATE TRIGGER allocations_are_shared_by_agreement BEFORE INSERT ON allocations
BEGIN
    SELECT RAISE(ABORT, 'an address was given to Services that do not share it')
    WHERE EXISTS (
        SELECT 1 FROM allocations
        WHERE address = NEW.address AND sharing_key IS NULL
    ) OR EXISTS (
        SELECT 1 FROM allocations
        WHERE address = NEW.address AND sharing_key IS NOT NULL
          AND (NEW.sharing_key IS NULL OR sharing_key <> NEW.sharing_key
               OR cluster <> NEW.cluster)
    );
END;

DROP TRIGGER history_released;
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
