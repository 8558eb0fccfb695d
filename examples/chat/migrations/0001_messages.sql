-- A row is a chat.v1.Message: each column has the name of its field. AUTOINCREMENT
-- keeps the ids of messages that were trimmed from being given again: clients ask
-- for what came after the last one they have.
CREATE TABLE messages (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	author TEXT NOT NULL,
	text TEXT NOT NULL,
	time TEXT NOT NULL,
	client_id TEXT NOT NULL
) STRICT;

-- What is sent again is posted once.
CREATE UNIQUE INDEX messages_by_client ON messages (author, client_id) WHERE client_id <> '';
