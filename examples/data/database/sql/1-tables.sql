CREATE TABLE notes (number bigint PRIMARY KEY, author text NOT NULL, body text NOT NULL);

