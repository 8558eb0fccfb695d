-- A full-text index over the items. It keeps no copy of their texts, so triggers
-- tell it what changes.

CREATE VIRTUAL TABLE item_search USING fts5 (
	name, description, content = 'items', content_rowid = 'id', tokenize = 'porter unicode61'
);

INSERT INTO item_search (item_search) VALUES ('rebuild');

CREATE TRIGGER item_added AFTER INSERT ON items BEGIN
	INSERT INTO item_search (rowid, name, description) VALUES (new.id, new.name, new.description);
END;

CREATE TRIGGER item_removed AFTER DELETE ON items BEGIN
	INSERT INTO item_search (item_search, rowid, name, description)
	VALUES ('delete', old.id, old.name, old.description);
END;

CREATE TRIGGER item_updated AFTER UPDATE OF name, description ON items BEGIN
	INSERT INTO item_search (item_search, rowid, name, description)
	VALUES ('delete', old.id, old.name, old.description);
	INSERT INTO item_search (rowid, name, description) VALUES (new.id, new.name, new.description);
END;
