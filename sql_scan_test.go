package durable_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

// A scanning runs One for some type.
type scanning func(ctx context.Context, s durable.SQL, query string, args ...any) (any, error)

func as[T any](ctx context.Context, s durable.SQL, query string, args ...any) (any, error) {
	return durable.One[T](ctx, s, query, args...)
}

// A csv is a Scanner.
type csv []string

func (c *csv) Scan(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("a csv is no %T", v)
	}
	*c = strings.Split(text, ",")
	return nil
}

func TestScanValues(t *testing.T) {
	s, _ := newSQL(t)
	noon := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	const huge = "9223372036854775807"
	for name, c := range map[string]struct {
		as    scanning
		query string
		want  any
	}{
		"int":                  {as[int], "SELECT -3", -3},
		"SQL-10 int64, exact":  {as[int64], "SELECT " + huge, int64(math.MaxInt64)},
		"int8":                 {as[int8], "SELECT -128", int8(-128)},
		"uint8":                {as[uint8], "SELECT 255", uint8(255)},
		"uint64":               {as[uint64], "SELECT " + huge, uint64(math.MaxInt64)},
		"int of a whole float": {as[int], "SELECT 3.0", 3},
		"int kind":             {as[myInt], "SELECT 3", myInt(3)},
		"float64":              {as[float64], "SELECT 0.1", 0.1},
		"float64 of an int":    {as[float64], "SELECT 3", 3.0},
		"float32":              {as[float32], "SELECT 0.1", float32(0.1)},
		"float32 infinite":     {as[float32], "SELECT 9e999", float32(math.Inf(1))},
		"string":               {as[string], "SELECT 'é'", "é"},
		"string kind":          {as[myString], "SELECT 'x'", myString("x")},
		"bool":                 {as[bool], "SELECT 1", true},
		"bytes":                {as[[]byte], "SELECT x'0100'", []byte{1, 0}},
		"empty bytes":          {as[[]byte], "SELECT x''", []byte{}},
		"nil bytes":            {as[[]byte], "SELECT NULL", []byte(nil)},
		"bytes of text":        {as[myBytes], "SELECT 'x'", myBytes("x")},
		"any":                  {as[any], "SELECT 1.5", 1.5},
		"nil any":              {as[any], "SELECT NULL", nil},
		"pointer":              {as[*int], "SELECT 3", new(3)},
		"nil pointer":          {as[*int], "SELECT NULL", (*int)(nil)},
		"duration":             {as[time.Duration], "SELECT 1500", 1500 * time.Nanosecond},
		"time":                 {as[time.Time], "SELECT '2026-03-04T12:00:00.000000000Z'", noon},
		"pointer to time":      {as[*time.Time], "SELECT '2026-03-04 12:00:00'", &noon},
		"null time":            {as[sql.NullTime], "SELECT '2026-03-04 12:00'", sql.NullTime{Time: noon, Valid: true}},
		"null time, null":      {as[sql.NullTime], "SELECT NULL", sql.NullTime{}},
		"generic null time":    {as[sql.Null[time.Time]], "SELECT '2026-03-04 12:00'", sql.Null[time.Time]{V: noon, Valid: true}},
		"scanner":              {as[csv], "SELECT 'a,b'", csv{"a", "b"}},
		"pointer to scanner":   {as[*csv], "SELECT 'a,b'", &csv{"a", "b"}},
		"null scanner":         {as[*csv], "SELECT NULL", (*csv)(nil)},
		"null string":          {as[sql.NullString], "SELECT NULL", sql.NullString{}},
		"enum by number":       {as[descriptorpb.FieldDescriptorProto_Type], "SELECT 8", descriptorpb.FieldDescriptorProto_TYPE_BOOL},
		"enum by name":         {as[descriptorpb.FieldDescriptorProto_Type], "SELECT 'TYPE_BOOL'", descriptorpb.FieldDescriptorProto_TYPE_BOOL},
		"pointer to enum":      {as[*descriptorpb.FieldDescriptorProto_Type], "SELECT NULL", (*descriptorpb.FieldDescriptorProto_Type)(nil)},
		"Timestamp":            {as[*timestamppb.Timestamp], "SELECT '2026-03-04T12:00Z'", timestamppb.New(noon)},
		"null Timestamp":       {as[*timestamppb.Timestamp], "SELECT NULL", (*timestamppb.Timestamp)(nil)},
		"Duration":             {as[*durationpb.Duration], "SELECT -1500000000", durationpb.New(-1500 * time.Millisecond)},
		"wrapper":              {as[*wrapperspb.UInt32Value], "SELECT 7", wrapperspb.UInt32(7)},
		"map, SQL-26":          {as[map[string]any], "SELECT 1 AS a, NULL AS b, 2 AS a", map[string]any{"a": int64(2), "b": nil}},
		"list":                 {as[[]any], "SELECT 1 AS a, NULL AS b, 2 AS a", []any{int64(1), nil, int64(2)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.as(t.Context(), s, c.query)
			if diff := cmp.Diff(c.want, got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	for name, c := range map[string]struct {
		as    scanning
		value string
		want  string
	}{
		"NULL into int":         {as[int], "NULL", "NULL does not fit into int"},
		"NULL into string":      {as[string], "NULL", "NULL does not fit into string"},
		"NULL into bool":        {as[bool], "NULL", "NULL does not fit into bool"},
		"NULL into float":       {as[float64], "NULL", "NULL does not fit into float64"},
		"NULL into time":        {as[time.Time], "NULL", "NULL does not fit into time.Time"},
		"NULL into enum":        {as[descriptorpb.FieldDescriptorProto_Type], "NULL", "NULL does not fit"},
		"int8":                  {as[int8], "128", "128 is out of the range of int8"},
		"uint":                  {as[uint], "-1", "-1 is out of the range of uint"},
		"uint16":                {as[uint16], "65536", "65536 is out of the range of uint16"},
		"pointer":               {as[*int8], "-129", "-129 is out of the range of int8"},
		"fraction":              {as[int], "1.5", "1.5 is not a whole number"},
		"float over int64":      {as[int64], "9223372036854775808.0", "is out of the range of int64"},
		"float under int64":     {as[int64], "-9.3e18", "is out of the range of int64"},
		"infinite":              {as[int64], "9e999", "+Inf is out of the range of int64"},
		"int of more digits":    {as[float64], "9007199254740993", "9007199254740993 has more digits than float64"},
		"float32":               {as[float32], "1e39", "1e+39 is out of the range of float32"},
		"bool":                  {as[bool], "2", "2 is out of the range of bool"},
		"text into int":         {as[int], "'1'", "text does not fit into int"},
		"int into string":       {as[string], "1", "an integer does not fit into string"},
		"blob into string":      {as[string], "x'41'", "a blob does not fit into string"},
		"int into bytes":        {as[[]byte], "1", "an integer does not fit into []uint8"},
		"int into time":         {as[time.Time], "1", "an integer does not fit into time.Time"},
		"text into time":        {as[time.Time], "'now'", "the text is not a time"},
		"scanner":               {as[csv], "1", "a csv is no int64"},
		"enum":                  {as[descriptorpb.FieldDescriptorProto_Type], "'NOPE'", `google.protobuf.FieldDescriptorProto.Type has no value "NOPE"`},
		"enum number":           {as[descriptorpb.FieldDescriptorProto_Type], "2147483648", "2147483648 is out of the range"},
		"wrapper":               {as[*wrapperspb.Int32Value], "2147483648", "2147483648 is out of the range of int32"},
		"float into Duration":   {as[*durationpb.Duration], "0.5", "0.5 is not a whole number"},
		"integer into a Tstamp": {as[*timestamppb.Timestamp], "1", "an integer does not fit into time.Time"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := c.as(t.Context(), s, "SELECT "+c.value+" AS col")
			var scan *durable.ScanError
			if !errors.As(err, &scan) || scan.Column != "col" || !strings.HasPrefix(err.Error(), `durable: column "col": `) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	for name, c := range map[string]struct {
		as    scanning
		query string
		want  string
	}{
		"two columns":  {as[int], "SELECT 1, 2", "the result has 2 columns, and int takes one"},
		"no column":    {as[int], "CREATE TABLE IF NOT EXISTS t (x)", "the result has 0 columns"},
		"channel":      {as[chan int], "SELECT 1", "a chan int takes no value of SQLite"},
		"pointer":      {as[*chan int], "SELECT 1", "a chan int takes no value of SQLite"},
		"list of ints": {as[[]int], "SELECT 1", "a []int takes no value of SQLite"},
		"map of ints":  {as[map[string]int], "SELECT 1", "takes no value of SQLite"},
		"interface":    {as[error], "SELECT 1", "takes no value of SQLite"},
	} {
		t.Run("no T for it: "+name, func(t *testing.T) {
			if _, err := c.as(t.Context(), s, c.query); !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Run("SQL-23 one tells none from several", func(t *testing.T) {
		if _, err := durable.One[int](t.Context(), s, "SELECT 1 WHERE 0"); !errors.Is(err, durable.ErrNoRow) {
			t.Errorf("%v", err)
		}
		if got, err := durable.One[int](t.Context(), s, "VALUES (1), (2)"); !errors.Is(err, durable.ErrManyRows) || got != 0 {
			t.Errorf("%d, %v", got, err)
		}
		if got, err := durable.All[int](t.Context(), s, "SELECT 1 WHERE 0"); got != nil || err != nil {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestScanTimes(t *testing.T) {
	s, _ := newSQL(t)
	date := func(hour, minute, second, nano int) time.Time {
		return time.Date(2026, 3, 4, hour, minute, second, nano, time.UTC)
	}
	for text, want := range map[string]time.Time{
		"2026-03-04":                          date(0, 0, 0, 0),
		"2026-03-04 05:06":                    date(5, 6, 0, 0),
		"2026-03-04T05:06":                    date(5, 6, 0, 0),
		"2026-03-04 05:06Z":                   date(5, 6, 0, 0),
		"2026-03-04 05:06+01:30":              date(3, 36, 0, 0),
		"2026-03-04 05:06:07":                 date(5, 6, 7, 0),
		"2026-03-04 05:06:07.089":             date(5, 6, 7, 89e6),
		"2026-03-04T05:06:07.089":             date(5, 6, 7, 89e6),
		"2026-03-04 05:06:07.089Z":            date(5, 6, 7, 89e6),
		"2026-03-04T05:06:07Z":                date(5, 6, 7, 0),
		"2026-03-04T05:06:07-01:00":           date(6, 6, 7, 0),
		"2026-03-04 05:06:07.000000001-01:00": date(6, 6, 7, 1),
		"2026-03-04T05:06:07.123456789Z":      date(5, 6, 7, 123456789),
	} {
		got, err := durable.One[time.Time](t.Context(), s, "SELECT ?", text)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "now", "12:00", "2026-03", "2026-13-04", "2026-03-04T", "2026-03-04x05:06", "2026-03-04 5:06:07",
		"2026-03-04 05:06:07 UTC", "2026-03-04 05:06:", "2026-03-04 25:06", "2461103.5", "2026-03-04 05:06é", "2026-03-04 05:06-",
	} {
		if got, err := durable.One[time.Time](t.Context(), s, "SELECT ?", text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
	type units struct {
		S  time.Time      `db:",unix"`
		MS time.Time      `db:"millis,unixmilli"`
		US *time.Time     `db:"micros,unixmicro"`
		NS sql.NullTime   `db:"nanos,unixnano"`
		No *time.Time     `db:"never,unix"`
		D  *time.Duration // no unit: nanoseconds
	}
	at := date(5, 6, 7, 0)
	got, err := durable.One[units](t.Context(), s, "SELECT ? AS s, ? AS millis, ? AS micros, ? AS nanos, NULL AS never, 5 AS d",
		at.Unix(), at.UnixMilli(), at.UnixMicro(), at.UnixNano())
	if err != nil || !reflect.DeepEqual(got, units{S: at, MS: at, US: &at, NS: sql.NullTime{Time: at, Valid: true}, D: new(time.Duration(5))}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := durable.One[units](t.Context(), s, "SELECT '2026-03-04' AS s"); err == nil || !strings.Contains(err.Error(), "text does not fit into a time of the option unix") {
		t.Errorf("%v", err)
	}
}

type base struct {
	ID      int64
	Created time.Time `db:"created_at"`
}

type address struct{ Street, City string }

type Extra struct{ Note *string }

type person struct {
	base
	*Extra
	Name     string
	HomeTown string
	Nick     *string `db:"nick_name"`
	Secret   string  `db:"-"`
	Kind     descriptorpb.FieldDescriptorProto_Type
	Meta     *structpb.Struct
	Home     address `db:"home"`
	hidden   int     //nolint:unused // a column must not find it
}

func TestScanStructs(t *testing.T) {
	s, _ := newSQL(t)
	ctx := t.Context()
	t.Run("every column finds its field", func(t *testing.T) {
		got, err := durable.All[person](ctx, s, `SELECT 1 AS Id, '2026-03-04' AS CREATED_AT, 'a' AS name, 'b' AS home_town, NULL AS Nick_Name,
			'TYPE_BOOL' AS kind, '{"x":1}' AS meta, 'n' AS note
			UNION ALL SELECT 2, '2026-03-05', 'c', 'd', 'e', 9, NULL, NULL`)
		if err != nil {
			t.Fatal(err)
		}
		day := func(d int) time.Time { return time.Date(2026, 3, d, 0, 0, 0, 0, time.UTC) }
		want := []person{
			{base: base{1, day(4)}, Extra: &Extra{new("n")}, Name: "a", HomeTown: "b", Kind: descriptorpb.FieldDescriptorProto_TYPE_BOOL, Meta: &structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewNumberValue(1)}}},
			{base: base{2, day(5)}, Extra: &Extra{}, Name: "c", HomeTown: "d", Nick: new("e"), Kind: descriptorpb.FieldDescriptorProto_TYPE_STRING},
		}
		if diff := cmp.Diff(want, got, protocmp.Transform(), cmp.AllowUnexported(person{})); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("pointers to structs", func(t *testing.T) {
		got, err := durable.All[*address](ctx, s, "VALUES ('a', 'b') LIMIT 0")
		if err == nil {
			t.Errorf("%v", got)
		}
		got, err = durable.All[*address](ctx, s, "SELECT 'a' AS street, 'b' AS city UNION ALL SELECT 'c', 'd'")
		if err != nil || len(got) != 2 || *got[0] != (address{"a", "b"}) || *got[1] != (address{"c", "d"}) {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("fields without a column stay zero, also in the next row", func(t *testing.T) {
		got, err := durable.All[struct{ A, B *int }](ctx, s, "VALUES (1), (NULL)")
		if err == nil {
			t.Errorf("%v", got)
		}
		got, err = durable.All[struct{ A, B *int }](ctx, s, "SELECT 1 AS a UNION ALL SELECT NULL")
		if err != nil || *got[0].A != 1 || got[1].A != nil || got[0].B != nil {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("the outer field hides the inner", func(t *testing.T) {
		type outer struct {
			address
			City string
		}
		got, err := durable.One[outer](ctx, s, "SELECT 'x' AS city")
		if err != nil || got.City != "x" || got.address.City != "" {
			t.Errorf("%v, %v", got, err)
		}
	})
	type twice struct {
		base
		Other struct{ base }
	}
	type same struct {
		A string `db:"x"`
		B string `db:"X"`
	}
	type left struct{ address }
	type right struct{ address }
	type both struct {
		left
		right
	}
	type Recursive struct {
		*Recursive
		N int
	}
	type unreachable struct{ *address }
	for name, c := range map[string]struct {
		as    scanning
		query string
		want  string
	}{
		"a column without a field":          {as[address], "SELECT 'a' AS street, 1 AS zip", `durable_test.address has no field for column "zip"`},
		"db:-":                              {as[person], "SELECT 'x' AS secret", `no field for column "secret"`},
		"unexported":                        {as[person], "SELECT 1 AS hidden", `no field for column "hidden"`},
		"the tag hides the name":            {as[person], "SELECT 'x' AS nick", `no field for column "nick"`},
		"two columns, one field":            {as[address], "SELECT 'a' AS city, 'b' AS City", `the columns "city" and "City" are both for field City`},
		"a struct in a struct":              {as[person], "SELECT 'x' AS home", "field Home: a durable_test.address takes no value of SQLite"},
		"two fields, one name":              {as[same], "SELECT 'x' AS x", "the fields A and B have the same name"},
		"ambiguous embedding":               {as[both], "SELECT 'x' AS city", "the fields City and City have the same name"},
		"a pointer to an unexported struct": {as[unreachable], "SELECT 'x' AS city", `no field for column "city"`},
		"unknown option": {as[struct {
			A time.Time `db:"a,unixday"`
		}], "SELECT 1 AS a", `unknown option "unixday"`},
		"empty option": {as[struct {
			A time.Time `db:"a,"`
		}], "SELECT 1 AS a", `unknown option ""`},
		"unit of no time": {as[struct {
			A int `db:"a,unix"`
		}], "SELECT 1 AS a", "a int is no time, and takes no option unix"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			if _, err := c.as(ctx, s, c.query); !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if got, err := durable.One[Recursive](ctx, s, "SELECT 1 AS n"); err != nil || got.N != 1 {
		t.Errorf("recursive: %v, %v", got, err)
	}
	if got, err := durable.One[twice](ctx, s, "SELECT 1 AS id"); err != nil || got.ID != 1 {
		t.Errorf("twice: %v, %v", got, err)
	}
	var scan *durable.ScanError
	if _, err := durable.All[person](ctx, s, "SELECT 'a' AS name UNION ALL SELECT NULL"); !errors.As(err, &scan) || scan.Column != "name" {
		t.Errorf("NULL in a field: %v", err)
	}
}

func TestRowScan(t *testing.T) {
	s, _ := newSQL(t)
	c, err := s.Exec(t.Context(), "SELECT 1 AS a, 'x' AS b, NULL AS c, 300 AS d")
	if err != nil {
		t.Fatal(err)
	}
	row, err := c.One()
	if err != nil {
		t.Fatal(err)
	}
	var (
		a64 int64
		a32 int32
		b   string
		e   any
		d   int
		d8  int8
		p   *int
	)
	for _, dest := range [][]any{{&a64, &b, &e, &d}, {&a32, &b, &p, &d}} {
		if err := row.Scan(dest...); err != nil || b != "x" || e != nil || d != 300 {
			t.Errorf("%v: %s, %v, %d", err, b, e, d)
		}
		b, d = "", 0
	}
	if a64 != 1 || a32 != 1 || p != nil {
		t.Errorf("%d, %d, %v", a64, a32, p)
	}
	for want, dest := range map[string][]any{
		"the row has 4 columns, not 1":                {&a64},
		"destination 2 is not a pointer to anything":  {&a64, b, &e, &d},
		"destination 1 is not a pointer to anything":  {(*int64)(nil), &b, &e, &d},
		"destination 3 is not a pointer to anything":  {&a64, &b, nil, &d},
		"destination 4: a chan int takes no value":    {&a64, &b, &e, new(chan int)},
		`column "c": NULL does not fit into string`:   {&a64, &b, &b, &d},
		`column "d": 300 is out of the range of int8`: {&a64, &b, &e, &d8},
	} {
		if err := row.Scan(dest...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func BenchmarkAll(b *testing.B) {
	s, _ := newSQL(b, "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, score REAL, created_at TEXT)",
		"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 100) INSERT INTO t SELECT n, 'name '||n, n/2.0, '2026-03-04T05:06:07.000000000Z' FROM c")
	type row struct {
		ID        int64
		Name      string
		Score     float64
		CreatedAt time.Time
	}
	const query = "SELECT id, name, score, created_at FROM t"
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := s.Exec(b.Context(), query)
			if err != nil {
				b.Fatal(err)
			}
			if rows, err := c.All(); err != nil || len(rows) != 100 {
				b.Fatal(len(rows), err)
			}
		}
	})
	b.Run("struct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if rows, err := durable.All[row](b.Context(), s, query); err != nil || len(rows) != 100 {
				b.Fatal(len(rows), err)
			}
		}
	})
	b.Run("message", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if rows, err := durable.All[*descriptorpb.FieldDescriptorProto](b.Context(), s, "SELECT id AS number, name FROM t"); err != nil || len(rows) != 100 {
				b.Fatal(len(rows), err)
			}
		}
	})
}
