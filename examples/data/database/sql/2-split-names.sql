BEGIN;

ALTER TABLE notes ADD COLUMN first text NOT NULL DEFAULT '', ADD COLUMN last text NOT NULL DEFAULT '';

UPDATE notes SET first = split_part(author, ' ', 1), last = split_part(author, ' ', 2);

ALTER TABLE notes DROP COLUMN author;

COMMIT;

