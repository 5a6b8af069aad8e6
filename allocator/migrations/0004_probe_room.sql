-- What takes the room that a batch of changes may take.
ALTER TABLE probe ADD COLUMN room BLOB;
