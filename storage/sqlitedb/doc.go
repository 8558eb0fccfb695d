// Package sqlitedb gives objects SQLite databases whose pages are keys of the
// object's map, so that SQL is committed in the batch of the turn with
// everything else the turn wrote.
//
// The layers, from below:
//
//   - pages: the pages of one database. Those that a turn changed are held until
//     the commit, and leave as whole pages or as patches of the stored ones. It
//     knows nothing of SQLite but its file header.
//   - vfs.go: what SQLite takes for a file.
//   - conn: one connection with its settings, its statements and the guard, which
//     decides what statements may do.
//   - database and session: the use of connections in turns.
//   - Engine: the open connections of a process, closed when they are idle or
//     need too much memory.
//
// # How a turn commits
//
// The first statement that writes begins a SQLite transaction. Flush commits it:
// SQLite writes its dirty pages to the overlay of pages, and those become part
// of the batch. Where SQLite has committed and the batch is then not applied, the
// connection believes what is not so, and is closed.
//
// # Locks
//
// conn.mu is held while SQLite runs; database.mu and Engine.mu only for
// bookkeeping, in this order, database.mu also while a connection opens.
package sqlitedb
