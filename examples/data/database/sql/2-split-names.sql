-- Every release that declares it runs it once, also after a release that did: then it finds nothing to do.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM information_schema.columns WHERE table_name = 'notes' AND column_name = 'author') THEN
    RETURN;
  END IF;
  ALTER TABLE notes ADD COLUMN first text NOT NULL DEFAULT '', ADD COLUMN last text NOT NULL DEFAULT '';
  UPDATE notes SET first = split_part(author, ' ', 1), last = split_part(author, ' ', 2);
  ALTER TABLE notes DROP COLUMN author;
END
$$;
