DELETE FROM notes;

ALTER TABLE notes DROP COLUMN nobody_has_this;

