-- Every hold there ever was. Seats are looked up by it, not it by them: when it
-- ends unpaid it has none.
CREATE TABLE holds (
	id TEXT PRIMARY KEY,
	client TEXT NOT NULL,
	state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4), -- booking.v1.HoldState
	expire_time TEXT NOT NULL
) STRICT;

CREATE INDEX holds_by_expiry ON holds (expire_time) WHERE state = 1;

-- A seat has room for one hold, which is why it is never sold twice.
CREATE TABLE seats (
	number INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	hold TEXT REFERENCES holds (id) -- NULL: the seat is free
) STRICT;

CREATE INDEX seats_by_hold ON seats (hold) WHERE hold IS NOT NULL;

CREATE TRIGGER hold_ends AFTER UPDATE OF state ON holds WHEN new.state IN (3, 4) BEGIN
	UPDATE seats SET hold = NULL WHERE hold = new.id;
END;

-- A hold is sold at most once.
CREATE TABLE orders (
	number INTEGER PRIMARY KEY,
	hold TEXT NOT NULL UNIQUE REFERENCES holds (id),
	seats INTEGER NOT NULL,
	amount INTEGER NOT NULL,
	time TEXT NOT NULL
) STRICT;

CREATE INDEX orders_by_time ON orders (time);

-- A row is a booking.v1.Report: each column has the name of its field.
CREATE TABLE reports (
	until TEXT PRIMARY KEY,
	since TEXT NOT NULL,
	orders INTEGER NOT NULL,
	seats INTEGER NOT NULL,
	revenue INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A row is a booking.v1.Hold.
CREATE VIEW hold_list AS
SELECT id, client, state, expire_time, (
	SELECT json_group_array(name ORDER BY number) FROM seats WHERE hold = holds.id
) AS seats
FROM holds;
