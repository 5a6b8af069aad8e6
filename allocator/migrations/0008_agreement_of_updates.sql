-- Those who share an address agree on it also after one of them is changed.

CREATE TRIGGER allocations_are_shared_by_agreement_update
BEFORE UPDATE OF address, family, cluster, namespace, name, sharing_key ON allocations
BEGIN
    SELECT RAISE(ABORT, 'an address was given to Services that do not share it')
    WHERE EXISTS (
        SELECT 1 FROM allocations
        WHERE address = NEW.address AND sharing_key IS NULL AND rowid <> OLD.rowid
    ) OR EXISTS (
        SELECT 1 FROM allocations
        WHERE address = NEW.address AND sharing_key IS NOT NULL AND rowid <> OLD.rowid
          AND (NEW.sharing_key IS NULL OR sharing_key <> NEW.sharing_key
               OR cluster <> NEW.cluster)
    );
END;
