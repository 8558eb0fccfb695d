-- name: CreateAuthor :one
INSERT INTO author (name, bio, born, joined_at, seen_at, active, banned, score, rank, photo, secret)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING *;

-- name: GetAuthor :one
SELECT * FROM author WHERE id = ?;

-- name: FindAuthor :one
SELECT id, joined_at, active FROM author WHERE name = sqlc.arg(name) AND active = sqlc.arg(active);

-- name: ListAuthors :many
SELECT * FROM author ORDER BY name;

-- name: ListNames :many
SELECT name FROM author WHERE joined_at >= sqlc.arg(since) AND joined_at < sqlc.arg(before) ORDER BY joined_at;

-- name: ListByID :many
SELECT name FROM author WHERE id IN (sqlc.slice('ids')) ORDER BY id;

-- name: UpdateAuthor :exec
UPDATE author SET bio = coalesce(sqlc.narg('bio'), bio), score = coalesce(sqlc.narg('score'), score) WHERE id = sqlc.arg('id');

-- name: SetActive :execrows
UPDATE author SET active = ? WHERE joined_at < ?;

-- name: DeleteAuthor :execrows
DELETE FROM author WHERE id = ?;

-- name: CreateBook :execlastid
INSERT INTO book (author_id, title, price) VALUES (?, ?, ?);

-- name: RaisePrices :execresult
UPDATE book SET price = price + ? WHERE author_id = ?;

-- name: ListBooks :many
SELECT sqlc.embed(author), sqlc.embed(book) FROM book JOIN author ON author.id = book.author_id ORDER BY book.id;

-- name: CountBooks :many
SELECT author.name, count(book.id) AS books, sum(book.price) AS total
FROM author LEFT JOIN book ON book.author_id = author.id
GROUP BY author.id ORDER BY author.name;

-- name: Exists :one
SELECT EXISTS (SELECT 1 FROM author WHERE name = ?);
