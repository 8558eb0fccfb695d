// Package ormtest runs code that others generate, and a mapper, on the
// [database/sql.DB] of a turn. It is a module of its own, so that the main one
// does not need theirs.
//
// The folders plain and prepared are written by sqlc from sqlc.yaml and the
// folder sql: make generate-sqlc.
package ormtest
