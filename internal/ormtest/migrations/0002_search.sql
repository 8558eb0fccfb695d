CREATE VIRTUAL TABLE note_search USING fts5 (title, content = 'note', content_rowid = 'id', tokenize = 'porter');
INSERT INTO note_search (note_search) VALUES ('rebuild');
CREATE TRIGGER note_added AFTER INSERT ON note BEGIN
	INSERT INTO note_search (rowid, title) VALUES (new.id, new.title);
END;
