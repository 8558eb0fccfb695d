CREATE TABLE author (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	bio TEXT,
	born DATE,
	joined_at DATETIME NOT NULL,
	seen_at TIMESTAMP,
	active BOOLEAN NOT NULL DEFAULT TRUE,
	banned BOOLEAN,
	score REAL NOT NULL DEFAULT 0,
	rank REAL,
	photo BLOB,
	secret BLOB NOT NULL
);

CREATE TABLE book (
	id INTEGER PRIMARY KEY,
	author_id INTEGER NOT NULL REFERENCES author (id) ON DELETE CASCADE,
	title TEXT NOT NULL,
	price INTEGER CHECK (price >= 0)
);

CREATE INDEX book_author ON book (author_id);
