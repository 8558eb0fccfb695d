package ormtest

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/ormtest/plain"
	"github.com/durable-go/durable/internal/ormtest/prepared"
)

//go:embed sql/schema.sql
var schema string

var (
	joined = time.Date(2026, 3, 4, 5, 6, 7, 890_123_456, time.UTC)
	born   = time.Date(1970, 2, 3, 0, 0, 0, 0, time.UTC)
)

func whole(name string) plain.CreateAuthorParams {
	return plain.CreateAuthorParams{
		Name: name, Bio: sql.NullString{String: "a life", Valid: true}, Born: sql.NullTime{Time: born, Valid: true},
		JoinedAt: joined, SeenAt: sql.NullTime{Time: joined.Add(time.Hour).In(time.FixedZone("", 3600)), Valid: true},
		Active: true, Banned: sql.NullBool{Valid: true}, Score: 1.5, Rank: sql.NullFloat64{Float64: 2, Valid: true},
		Photo: []byte{0, 255}, Secret: []byte{},
	}
}

func bare(name string) plain.CreateAuthorParams {
	return plain.CreateAuthorParams{Name: name, JoinedAt: joined.AddDate(1, 0, 0), Secret: []byte{1}}
}

// created returns the row that params make: its times are in UTC.
func created(id int64, p plain.CreateAuthorParams) plain.Author {
	if p.SeenAt.Valid {
		p.SeenAt.Time = p.SeenAt.Time.UTC()
	}
	return plain.Author{
		ID: id, Name: p.Name, Bio: p.Bio, Born: p.Born, JoinedAt: p.JoinedAt, SeenAt: p.SeenAt, Active: p.Active,
		Banned: p.Banned, Score: p.Score, Rank: p.Rank, Photo: p.Photo, Secret: p.Secret,
	}
}

// utc compares times with their zones.
var utc = cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && a.Location() == b.Location() })

func TestSQLCPlain(t *testing.T) {
	o := newObject(t, schema)
	t.Run("SQL-08 SQL-09 SQL-33 rows come back as they were", func(t *testing.T) {
		want := make([]plain.Author, 2)
		o.must(func(ctx context.Context, tx durable.Tx) error {
			q := plain.New(tx.SQL().DB())
			for i, params := range []plain.CreateAuthorParams{whole("ann"), bare("bob")} {
				want[i] = created(int64(i+1), params)
				got, err := q.CreateAuthor(ctx, params)
				if err != nil {
					return err
				}
				if diff := cmp.Diff(want[i], got, utc); diff != "" {
					t.Errorf("RETURNING %s: %s", params.Name, diff)
				}
			}
			return nil
		})
		o.mustView(func(ctx context.Context, view durable.View) error {
			q := plain.New(view.SQL().DB())
			all, err := q.ListAuthors(ctx)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(want, all, utc); diff != "" {
				t.Error(diff)
			}
			one, err := q.GetAuthor(ctx, 1)
			if diff := cmp.Diff(want[0], one, utc); diff != "" {
				t.Error(diff)
			}
			return err
		})
	})
	t.Run("arguments that are times, bools and lists", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			q := plain.New(view.SQL().DB())
			found, err := q.FindAuthor(ctx, plain.FindAuthorParams{Name: "ann", Active: true})
			if err != nil {
				return err
			}
			if diff := cmp.Diff(plain.FindAuthorRow{ID: 1, JoinedAt: joined, Active: true}, found, utc); diff != "" {
				t.Error(diff)
			}
			for _, zone := range []*time.Location{time.UTC, time.FixedZone("", -7*3600)} {
				names, err := q.ListNames(ctx, plain.ListNamesParams{Since: joined.In(zone), Before: joined.Add(1).In(zone)})
				if err != nil {
					return err
				}
				if diff := cmp.Diff([]string{"ann"}, names); diff != "" {
					t.Error(zone, diff)
				}
			}
			for want, ids := range map[string][]int64{"[]": nil, "[bob]": {2, 9}, "[ann bob]": {2, 1}} {
				names, err := q.ListByID(ctx, ids)
				if err != nil {
					return err
				}
				if got := fmt.Sprint(names); got != want {
					t.Errorf("%v: %s, want %s", ids, got, want)
				}
			}
			n, err := q.Exists(ctx, "ann")
			if n != 1 {
				t.Error(n)
			}
			return err
		})
	})
	t.Run(":exec, :execrows, :execlastid and :execresult", func(t *testing.T) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			q := plain.New(tx.SQL().DB())
			if err := q.UpdateAuthor(ctx, plain.UpdateAuthorParams{ID: 1, Score: sql.NullFloat64{Float64: 7, Valid: true}}); err != nil {
				return err
			}
			a, err := q.GetAuthor(ctx, 1)
			if err != nil {
				return err
			}
			if a.Score != 7 || a.Bio.String != "a life" {
				t.Errorf("%+v", a)
			}
			for before, want := range map[time.Time]int64{joined: 0, joined.Add(1): 1, joined.AddDate(9, 0, 0): 2} {
				if n, err := q.SetActive(ctx, plain.SetActiveParams{Active: true, JoinedAt: before}); n != want || err != nil {
					t.Errorf("%d rows, %v, want %d", n, err, want)
				}
			}
			for i := range int64(3) {
				id, err := q.CreateBook(ctx, plain.CreateBookParams{AuthorID: 1 + i%2, Title: "t", Price: sql.NullInt64{Int64: i, Valid: i > 0}})
				if err != nil {
					return err
				}
				if id != i+1 {
					t.Errorf("id %d, want %d", id, i+1)
				}
			}
			res, err := q.RaisePrices(ctx, plain.RaisePricesParams{Price: sql.NullInt64{Int64: 10, Valid: true}, AuthorID: 1})
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n != 2 || err != nil {
				t.Error(n, err)
			}
			return nil
		})
		o.mustView(func(ctx context.Context, view durable.View) error {
			q := plain.New(view.SQL().DB())
			books, err := q.ListBooks(ctx)
			if err != nil {
				return err
			}
			got := ""
			for _, b := range books {
				got += fmt.Sprintf("%s %d %v %v;", b.Author.Name, b.Book.ID, b.Book.Price, b.Author.JoinedAt.Equal(joined))
			}
			if want := "ann 1 {0 false} true;bob 2 {1 true} false;ann 3 {12 true} true;"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
			counts, err := q.CountBooks(ctx)
			want := []plain.CountBooksRow{
				{Name: "ann", Books: 2, Total: sql.NullFloat64{Float64: 12, Valid: true}},
				{Name: "bob", Books: 1, Total: sql.NullFloat64{Float64: 1, Valid: true}},
			}
			if diff := cmp.Diff(want, counts); diff != "" {
				t.Error(diff)
			}
			return err
		})
		o.must(func(ctx context.Context, tx durable.Tx) error {
			n, err := plain.New(tx.SQL().DB()).DeleteAuthor(ctx, 2)
			if n != 1 {
				t.Error(n)
			}
			if n, err := plain.New(tx.SQL().DB()).DeleteAuthor(ctx, 2); n != 0 || err != nil {
				t.Error(n, err)
			}
			return err
		})
	})
	t.Run("no row is sql.ErrNoRows", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			if _, err := plain.New(view.SQL().DB()).GetAuthor(ctx, 99); !errors.Is(err, sql.ErrNoRows) {
				t.Error(err)
			}
			return nil
		})
	})
	t.Run("errors of SQLite arrive whole", func(t *testing.T) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			q := plain.New(tx.SQL().DB())
			_, err := q.CreateAuthor(ctx, bare("ann"))
			var e *durable.SQLError
			if !errors.As(err, &e) || e.Code != "SQLITE_CONSTRAINT_UNIQUE" || e.Constraint != "author.name" {
				t.Error(err)
			}
			_, err = q.CreateBook(ctx, plain.CreateBookParams{AuthorID: 77})
			if !errors.As(err, &e) || e.Code != "SQLITE_CONSTRAINT_FOREIGNKEY" {
				t.Error(err)
			}
			_, err = q.CreateAuthor(ctx, plain.CreateAuthorParams{Name: "cid", JoinedAt: joined})
			if !errors.As(err, &e) || e.Code != "SQLITE_CONSTRAINT_NOTNULL" || e.Constraint != "author.secret" {
				t.Error(err) // a nil []byte is NULL
			}
			return nil
		})
		if diff := cmp.Diff([]string{"ann"}, o.names()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("it is durable", func(t *testing.T) {
		o.server.Crash()
		if diff := cmp.Diff([]string{"ann"}, o.names()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSQLCPrepared(t *testing.T) {
	o := newObject(t, schema)
	params := func(name string) prepared.CreateAuthorParams {
		p := whole(name)
		no := false
		return prepared.CreateAuthorParams{
			Name: p.Name, Bio: &p.Bio.String, Born: &p.Born.Time, JoinedAt: p.JoinedAt, SeenAt: nil, Active: p.Active, Banned: &no,
			Score: p.Score, Rank: nil, Photo: nil, Secret: []byte{3},
		}
	}
	t.Run("SQL-14 every statement is prepared, and used twice", func(t *testing.T) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			q, err := prepared.Prepare(ctx, tx.SQL().DB())
			if err != nil {
				return err
			}
			for i, name := range []string{"ann", "bob"} {
				a, err := q.CreateAuthor(ctx, params(name))
				if err != nil {
					return err
				}
				if a.ID != int64(i+1) || a.Bio == nil || *a.Bio != "a life" || a.Born == nil || *a.Born != born || a.JoinedAt != joined ||
					a.SeenAt != nil || !a.Active || a.Banned == nil || *a.Banned || a.Rank != nil || a.Photo != nil || len(a.Secret) != 1 {
					t.Errorf("%+v", a)
				}
				if id, err := q.CreateBook(ctx, prepared.CreateBookParams{AuthorID: a.ID, Title: name}); id != a.ID || err != nil {
					t.Error(id, err)
				}
			}
			for range 2 {
				if names, err := q.ListByID(ctx, []int64{1, 2}); fmt.Sprint(names) != "[ann bob]" || err != nil {
					t.Error(names, err)
				}
				if n, err := q.SetActive(ctx, prepared.SetActiveParams{JoinedAt: joined.Add(1)}); n != 2 || err != nil {
					t.Error(n, err)
				}
				if books, err := q.ListBooks(ctx); len(books) != 2 || err != nil {
					t.Error(books, err)
				}
				if _, err := q.GetAuthor(ctx, 99); !errors.Is(err, sql.ErrNoRows) {
					t.Error(err)
				}
			}
			return q.Close()
		})
	})
	t.Run("in a transaction, which is undone", func(t *testing.T) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			db := tx.SQL().DB()
			q, err := prepared.Prepare(ctx, db)
			if err != nil {
				return err
			}
			nested, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if _, err := q.WithTx(nested).CreateAuthor(ctx, params("cid")); err != nil {
				return err
			}
			if n, err := q.WithTx(nested).DeleteAuthor(ctx, 1); n != 1 || err != nil {
				t.Error(n, err)
			}
			if err := nested.Rollback(); err != nil {
				return err
			}
			all, err := q.ListAuthors(ctx)
			if len(all) != 2 {
				t.Error(all)
			}
			return err
		})
	})
	t.Run("in a view", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			q, err := prepared.Prepare(ctx, view.SQL().DB())
			if err != nil {
				return err // statements that write are prepared, too
			}
			all, err := q.ListAuthors(ctx)
			if len(all) != 2 {
				t.Error(all)
			}
			_, werr := q.DeleteAuthor(ctx, 1)
			readOnly(t, werr)
			return err
		})
	})
	t.Run("statements that were left open work until the turn ends", func(t *testing.T) {
		var q *prepared.Queries
		o.must(func(ctx context.Context, tx durable.Tx) (err error) {
			q, err = prepared.Prepare(ctx, tx.SQL().DB())
			return err
		})
		if _, err := q.ListAuthors(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
}

// readOnly checks the error of a write in a view.
func readOnly(t *testing.T, err error) {
	t.Helper()
	var e *durable.SQLError
	if !errors.As(err, &e) || e.Code != "SQLITE_READONLY" || !strings.Contains(err.Error(), "in a view") {
		t.Errorf("a write in a view: %v", err)
	}
}
