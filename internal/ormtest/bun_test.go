package ormtest

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	durable "github.com/durable-go/durable"
)

// A user has orders, and they have tags.
type user struct {
	bun.BaseModel `bun:"table:users,alias:u"`

	ID        int64             `bun:",pk,autoincrement"`
	Name      string            `bun:",notnull,unique"`
	Active    bool              `bun:",notnull"`
	Trusted   *bool             // may be NULL
	Score     float64           `bun:",notnull,default:0"`
	Born      time.Time         `bun:"type:date,nullzero"`
	CreatedAt time.Time         `bun:",notnull"`
	SeenAt    bun.NullTime      // zero is NULL
	Settings  map[string]any    `bun:"type:json"`
	Labels    []string          // as JSON
	Raw       json.RawMessage   `bun:",nullzero"`
	Photo     []byte            // may be NULL
	Nick      sql.NullString    // may be NULL
	Extra     map[string]string `bun:"-"`
	Orders    []*order          `bun:"rel:has-many,join:id=user_id"`
}

type order struct {
	bun.BaseModel `bun:"table:orders,alias:o"`

	ID     int64  `bun:",pk,autoincrement"`
	UserID int64  `bun:",notnull"`
	Item   string `bun:",notnull"`
	Paid   bool   `bun:",notnull"`
	Kind   string `bun:",nullzero,notnull,default:'web'"`
	User   *user  `bun:"rel:belongs-to,join:user_id=id"`
	Tags   []*tag `bun:"m2m:order_tags,join:Order=Tag"`
}

type tag struct {
	bun.BaseModel `bun:"table:tags,alias:t"`

	ID   int64  `bun:",pk,autoincrement"`
	Name string `bun:",notnull"`
}

type orderTag struct {
	bun.BaseModel `bun:"table:order_tags"`

	OrderID int64  `bun:",pk"`
	Order   *order `bun:"rel:belongs-to,join:order_id=id"`
	TagID   int64  `bun:",pk"`
	Tag     *tag   `bun:"rel:belongs-to,join:tag_id=id"`
}

// dialect is shared by all turns: it keeps what it knows of the models.
var dialect = sqlitedialect.New()

// orm returns a mapper on the database of a turn.
func orm(s durable.SQL) *bun.DB {
	db := bun.NewDB(s.DB(), dialect)
	db.RegisterModel((*orderTag)(nil))
	return db
}

func createTables(ctx context.Context, tx durable.Tx) error {
	db := orm(tx.SQL())
	if _, err := db.NewCreateTable().Model((*user)(nil)).IfNotExists().Exec(ctx); err != nil {
		return err
	}
	if _, err := db.NewCreateTable().Model((*order)(nil)).ForeignKey(`("user_id") REFERENCES "users" ("id") ON DELETE CASCADE`).Exec(ctx); err != nil {
		return err
	}
	for _, model := range []any{(*tag)(nil), (*orderTag)(nil)} {
		if _, err := db.NewCreateTable().Model(model).Exec(ctx); err != nil {
			return err
		}
	}
	_, err := db.NewCreateIndex().Model((*order)(nil)).Index("orders_user").Column("user_id").Exec(ctx)
	return err
}

func ann() *user {
	yes := true
	return &user{
		Name: "ann", Active: true, Trusted: &yes, Score: 1.5, Born: born, CreatedAt: joined.Truncate(time.Microsecond),
		SeenAt:   bun.NullTime{Time: joined.Truncate(time.Microsecond).Add(time.Hour)},
		Settings: map[string]any{"theme": "dark", "size": 12.0, "it's": nil}, Labels: []string{"a", "b"},
		Raw: json.RawMessage(`{"x":[1,2]}`), Photo: []byte{0, 39, 255}, Nick: sql.NullString{String: "it's ?", Valid: true},
	}
}

func bob() *user { return &user{Name: "bob", CreatedAt: born} }

// same compares what the database holds of users.
func same(t *testing.T, want, got *user) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b bun.NullTime) bool { return a.Equal(b.Time) })); diff != "" {
		t.Error(diff)
	}
}

func TestBun(t *testing.T) {
	o := newObject(t)
	o.must(createTables)
	t.Run("insert, returning the id", func(t *testing.T) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			db := orm(tx.SQL())
			for i, u := range []*user{ann(), bob()} {
				if _, err := db.NewInsert().Model(u).Exec(ctx); err != nil {
					return err
				}
				if u.ID != int64(i+1) {
					t.Errorf("id %d", u.ID)
				}
			}
			// Several at once, with a default that the database fills in.
			orders := []*order{{UserID: 1, Item: "x"}, {UserID: 1, Item: "y", Paid: true}, {UserID: 2, Item: "z"}}
			res, err := db.NewInsert().Model(&orders).Returning("*").Exec(ctx)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n != 3 || err != nil {
				t.Error(n, err)
			}
			for i, order := range orders {
				if order.ID != int64(i+1) || order.Paid != (i == 1) || order.Kind != "web" {
					t.Errorf("%+v", order)
				}
			}
			tags := []*tag{{Name: "new"}, {Name: "blue"}}
			if _, err := db.NewInsert().Model(&tags).Exec(ctx); err != nil {
				return err
			}
			_, err = db.NewInsert().Model(&[]orderTag{{OrderID: 1, TagID: 1}, {OrderID: 1, TagID: 2}, {OrderID: 3, TagID: 2}}).Exec(ctx)
			return err
		})
	})
	t.Run("times, bools, JSON, blobs and NULLs", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			db := orm(view.SQL())
			for i, want := range []*user{ann(), bob()} {
				want.ID = int64(i + 1)
				got := new(user)
				if err := db.NewSelect().Model(got).Where("id = ?", want.ID).Scan(ctx); err != nil {
					return err
				}
				same(t, want, got)
			}
			got := new(user)
			err := db.NewSelect().Model(got).Where("active AND created_at = ? AND name IN (?)", ann().CreatedAt, bun.In([]string{"ann", "x"})).Scan(ctx)
			if got.ID != 1 {
				t.Error(got)
			}
			return err
		})
		o.mustView(func(ctx context.Context, view durable.View) error {
			db := orm(view.SQL())
			var (
				at     time.Time
				active bool
				theme  string
				photo  []byte
				names  []string
			)
			if err := db.NewSelect().Model((*user)(nil)).Column("created_at", "active").ColumnExpr("settings ->> '$.theme'").Column("photo").
				Where("id = 1").Scan(ctx, &at, &active, &theme, &photo); err != nil {
				return err
			}
			if !at.Equal(ann().CreatedAt) || !active || theme != "dark" || len(photo) != 3 {
				t.Error(at, active, theme, photo)
			}
			// The time of an expression has no declared type, and is text.
			if err := db.NewSelect().Model((*user)(nil)).ColumnExpr("max(created_at)").Scan(ctx, &at); err != nil || !at.Equal(ann().CreatedAt) {
				t.Error(at, err)
			}
			if err := db.NewSelect().Model((*user)(nil)).Column("name").Order("name DESC").Scan(ctx, &names); err != nil || fmt.Sprint(names) != "[bob ann]" {
				t.Error(names, err)
			}
			var rows []map[string]any
			err := db.NewSelect().Model((*user)(nil)).Column("name", "active", "nick").Order("id").Scan(ctx, &rows)
			want := []map[string]any{{"name": "ann", "active": true, "nick": "it's ?"}, {"name": "bob", "active": false, "nick": nil}}
			if diff := cmp.Diff(want, rows); diff != "" {
				t.Error(diff)
			}
			return err
		})
	})
	t.Run("count, exists and no row", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			db := orm(view.SQL())
			if n, err := db.NewSelect().Model((*order)(nil)).Where("paid = ?", false).Count(ctx); n != 2 || err != nil {
				t.Error(n, err)
			}
			for name, want := range map[string]bool{"ann": true, "cid": false} {
				if ok, err := db.NewSelect().Model((*user)(nil)).Where("name = ?", name).Exists(ctx); ok != want || err != nil {
					t.Error(name, ok, err)
				}
			}
			var all []user
			if n, err := db.NewSelect().Model(&all).Limit(1).Order("id").ScanAndCount(ctx); n != 2 || len(all) != 1 || err != nil {
				t.Error(n, all, err) // two queries at once
			}
			if err := db.NewSelect().Model(new(user)).Where("id = 99").Scan(ctx); !errors.Is(err, sql.ErrNoRows) {
				t.Error(err)
			}
			return nil
		})
	})
	t.Run("relations", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			db := orm(view.SQL())
			var users []user
			if err := db.NewSelect().Model(&users).Relation("Orders", func(q *bun.SelectQuery) *bun.SelectQuery { return q.Order("o.id") }).
				Relation("Orders.Tags").Order("u.id").Scan(ctx); err != nil {
				return err
			}
			got := ""
			for _, u := range users {
				for _, o := range u.Orders {
					got += fmt.Sprint(u.Name, " ", o.Item, " ", o.Paid, " ", len(o.Tags), ";")
				}
			}
			if want := "ann x false 2;ann y true 0;bob z false 1;"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
			one := new(order)
			err := db.NewSelect().Model(one).Relation("User").Where("o.id = 2").Scan(ctx)
			want := ann()
			want.ID = 1
			same(t, want, one.User)
			return err
		})
	})
	t.Run("update, upsert and delete", func(t *testing.T) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			db := orm(tx.SQL())
			u := ann()
			u.ID, u.Active, u.Score, u.Trusted = 1, false, 9, nil
			res, err := db.NewUpdate().Model(u).Column("active", "score", "trusted").WherePK().Exec(ctx)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n != 1 || err != nil {
				t.Error(n, err)
			}
			var paid []int64
			if _, err := db.NewUpdate().Model((*order)(nil)).Set("paid = TRUE").Where("NOT paid").Returning("id").Exec(ctx, &paid); err != nil || len(paid) != 2 {
				t.Error(paid, err)
			}
			double := &user{Name: "bob", CreatedAt: joined, Score: 3}
			if _, err := db.NewInsert().Model(double).On("CONFLICT (name) DO UPDATE").Set("score = EXCLUDED.score").Exec(ctx); err != nil {
				return err
			}
			if double.ID != 2 {
				t.Error(double.ID)
			}
			if _, err := db.NewInsert().Model(bob()).Ignore().Exec(ctx); err != nil {
				t.Error(err)
			}
			_, err = db.NewInsert().Model(bob()).Exec(ctx)
			var e *durable.SQLError
			if !errors.As(err, &e) || e.Code != "SQLITE_CONSTRAINT_UNIQUE" || e.Constraint != "users.name" {
				t.Error(err)
			}
			if res, err := db.NewDelete().Model((*user)(nil)).Where("name = ?", "bob").Exec(ctx); err != nil {
				t.Error(res, err)
			}
			many := []*order{{ID: 1, Item: "xx"}, {ID: 2, Item: "yy"}}
			_, err = db.NewUpdate().Model(&many).Column("item").Bulk().Exec(ctx)
			return err
		})
		o.mustView(func(ctx context.Context, view durable.View) error {
			db := orm(view.SQL())
			var orders []order
			if err := db.NewSelect().Model(&orders).Relation("User").Order("o.id").Scan(ctx); err != nil {
				return err
			}
			got := ""
			for _, o := range orders {
				got += fmt.Sprint(o.Item, " ", o.Paid, " ", o.User.Active, " ", o.User.Score, " ", o.User.Trusted == nil, ";")
			}
			if want := "xx true false 9 true;yy true false 9 true;"; got != want { // those of bob went with him
				t.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	})
	t.Run("rows one by one, and raw", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			db := orm(view.SQL())
			rows, err := db.NewSelect().Model((*order)(nil)).Order("id").Rows(ctx)
			if err != nil {
				return err
			}
			defer rows.Close()
			n := 0
			for rows.Next() {
				one := new(order)
				if err := db.ScanRow(ctx, rows, one); err != nil {
					return err
				}
				n++
				if one.ID != int64(n) {
					t.Error(one)
				}
			}
			if n != 2 || rows.Err() != nil {
				t.Error(n, rows.Err())
			}
			var items []string
			err = db.NewRaw("SELECT item FROM ? WHERE id > ?", bun.Ident("orders"), 1).Scan(ctx, &items)
			if fmt.Sprint(items) != "[yy]" {
				t.Error(items)
			}
			return err
		})
	})
	t.Run("in a view", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			_, err := orm(view.SQL()).NewDelete().Model((*order)(nil)).Where("TRUE").Exec(ctx)
			readOnly(t, err)
			_, err = orm(view.SQL()).NewInsert().Model(&tag{Name: "x"}).Exec(ctx)
			readOnly(t, err)
			return nil
		})
	})
}

func TestBunTransactions(t *testing.T) {
	tags := func(t *testing.T, o *object, want string) {
		t.Helper()
		o.mustView(func(ctx context.Context, view durable.View) error {
			var names []string
			err := orm(view.SQL()).NewSelect().Model((*tag)(nil)).Column("name").Order("id").Scan(ctx, &names)
			if got := fmt.Sprint(names); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			return err
		})
	}
	insert := func(ctx context.Context, db bun.IDB, name string) error {
		_, err := db.NewInsert().Model(&tag{Name: name}).Exec(ctx)
		return err
	}
	for name, c := range map[string]struct {
		do   func(ctx context.Context, t *testing.T, tx durable.Tx, db *bun.DB) error
		fail error
		tags string
		pair string
	}{
		"RunInTx commits": {func(ctx context.Context, _ *testing.T, tx durable.Tx, db *bun.DB) error {
			return db.RunInTx(ctx, nil, func(ctx context.Context, btx bun.Tx) error {
				return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), insert(ctx, btx, "a"))
			})
		}, nil, "[a]", "v"},
		"RunInTx undoes pairs, too": {func(ctx context.Context, t *testing.T, tx durable.Tx, db *bun.DB) error {
			if err := insert(ctx, db, "before"); err != nil {
				return err
			}
			err := db.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable}, func(ctx context.Context, btx bun.Tx) error {
				return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), insert(ctx, btx, "a"), errHandler)
			})
			if !errors.Is(err, errHandler) {
				t.Error(err)
			}
			return nil
		}, nil, "[before]", ""},
		"an error of the handler undoes it": {func(ctx context.Context, _ *testing.T, tx durable.Tx, db *bun.DB) error {
			err := db.RunInTx(ctx, nil, func(ctx context.Context, btx bun.Tx) error {
				return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), insert(ctx, btx, "a"))
			})
			return errors.Join(err, errHandler)
		}, errHandler, "[]", ""},
		"nested by the database, not by the transaction": {func(ctx context.Context, t *testing.T, _ durable.Tx, db *bun.DB) error {
			return db.RunInTx(ctx, nil, func(ctx context.Context, outer bun.Tx) error {
				if err := insert(ctx, outer, "outer"); err != nil {
					return err
				}
				// SQL-46: bun writes SAVEPOINT, which is refused before anything is done.
				err := outer.RunInTx(ctx, nil, func(context.Context, bun.Tx) error {
					t.Error("it began")
					return nil
				})
				var e *durable.SQLError
				if !errors.As(err, &e) || e.Code != "SQLITE_AUTH" || e.Message != "SAVEPOINT is refused" {
					t.Error(err)
				}
				err = db.RunInTx(ctx, nil, func(ctx context.Context, inner bun.Tx) error {
					return errors.Join(insert(ctx, inner, "inner"), errHandler)
				})
				if !errors.Is(err, errHandler) {
					t.Error(err)
				}
				return nil
			})
		}, nil, "[outer]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newObject(t)
				o.must(createTables)
				_ = o.update(func(ctx context.Context, tx durable.Tx) error { return c.do(ctx, t, tx, orm(tx.SQL())) })
				if !errors.Is(o.err, c.fail) {
					t.Errorf("%v, want %v", o.err, c.fail)
				}
				tags(t, o, c.tags)
				if got := o.pair(); got != c.pair {
					t.Errorf("the pair is %q, want %q", got, c.pair)
				}
			})
		})
	}
}
