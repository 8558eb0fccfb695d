-- What a table must never hold is refused by its constraints. Their names tell
-- the handlers what was wrong with a request: see refusal.go.

CREATE TABLE items (
	id INTEGER PRIMARY KEY,
	sku TEXT NOT NULL UNIQUE CONSTRAINT item_sku CHECK (length(sku) BETWEEN 1 AND 64),
	name TEXT NOT NULL CONSTRAINT item_name CHECK (length(name) BETWEEN 1 AND 200),
	description TEXT NOT NULL CONSTRAINT item_description CHECK (length(description) <= 10000),
	price INTEGER NOT NULL CONSTRAINT item_price CHECK (price BETWEEN 0 AND 100000000),
	on_hand INTEGER NOT NULL DEFAULT 0 CONSTRAINT item_on_hand CHECK (on_hand BETWEEN 0 AND 100000000),
	reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
	available INTEGER NOT NULL AS (on_hand - reserved),
	-- Nothing is promised that is not there: this is what keeps orders from
	-- being oversold.
	CONSTRAINT enough_stock CHECK (reserved <= on_hand)
) STRICT;

CREATE TABLE reservations (
	number INTEGER PRIMARY KEY,
	order_id TEXT NOT NULL UNIQUE CONSTRAINT order_id CHECK (length(order_id) BETWEEN 1 AND 64),
	state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4), -- inventory.v1.ReservationState
	create_time TEXT NOT NULL,
	expire_time TEXT
) STRICT;

CREATE INDEX reservations_by_expiry ON reservations (expire_time) WHERE state = 1;

CREATE TABLE lines (
	reservation INTEGER NOT NULL REFERENCES reservations (number),
	sku TEXT NOT NULL REFERENCES items (sku),
	quantity INTEGER NOT NULL CONSTRAINT quantity CHECK (quantity BETWEEN 1 AND 100000000),
	PRIMARY KEY (reservation, sku)
) STRICT, WITHOUT ROWID;

CREATE INDEX lines_by_sku ON lines (sku);

-- Every change of a stock, for ever: received when reservation is NULL, shipped
-- otherwise.
CREATE TABLE movements (
	number INTEGER PRIMARY KEY,
	sku TEXT NOT NULL REFERENCES items (sku),
	quantity INTEGER NOT NULL,
	delivery TEXT NOT NULL DEFAULT '' CONSTRAINT delivery CHECK (length(delivery) <= 64),
	reservation INTEGER REFERENCES reservations (number),
	time TEXT NOT NULL,
	CONSTRAINT quantity CHECK (
		CASE WHEN reservation IS NULL THEN quantity BETWEEN 1 AND 100000000
		ELSE quantity BETWEEN -100000000 AND -1 END
	)
) STRICT;

CREATE INDEX movements_by_sku ON movements (sku, number);
CREATE UNIQUE INDEX deliveries ON movements (sku, delivery) WHERE delivery <> '';

-- The figures of an item follow from the other tables.

CREATE TRIGGER movement_counts AFTER INSERT ON movements BEGIN
	UPDATE items SET on_hand = on_hand + new.quantity WHERE sku = new.sku;
END;

CREATE TRIGGER line_reserves AFTER INSERT ON lines BEGIN
	UPDATE items SET reserved = reserved + new.quantity WHERE sku = new.sku;
END;

CREATE TRIGGER reservation_ends AFTER UPDATE OF state ON reservations WHEN old.state = 1 AND new.state <> 1 BEGIN
	UPDATE items SET reserved = reserved - lines.quantity
	FROM lines WHERE lines.reservation = new.number AND lines.sku = items.sku;
END;

-- A row is an inventory.v1.Reservation: each column has the name of its field.
CREATE VIEW reservation_list AS
SELECT number, order_id, state, create_time, expire_time, (
	SELECT json_group_array(json_object('sku', sku, 'quantity', quantity) ORDER BY sku)
	FROM lines WHERE reservation = reservations.number
) AS lines
FROM reservations;
