package durable_test

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

type (
	myBool   bool
	myInt    int16
	myUint   uint32
	myFloat  float32
	myString string
	myBytes  []byte
)

// A pair is a Valuer by value, a counter one by pointer.
type (
	pair    struct{ a, b string }
	counter struct{ n int }
	again   struct{ v any }
)

func (p pair) Value() (driver.Value, error) {
	if p.b == "" {
		return nil, errors.New("half a pair")
	}
	return p.a + "," + p.b, nil
}

func (c *counter) Value() (driver.Value, error) {
	if c == nil {
		return int64(-1), nil
	}
	return c.n, nil
}

func (a again) Value() (driver.Value, error) { return a.v, nil }

func TestBind(t *testing.T) {
	s, p := newSQL(t)
	when := time.Date(2026, 3, 4, 5, 6, 7, 89, time.FixedZone("", 3600))
	const stored = "2026-03-04T04:06:07.000000089Z"
	list, err := structpb.NewList([]any{1, "a"})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := proto.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ arg, want any }{
		"nil":                    {nil, nil},
		"int":                    {int(-5), int64(-5)},
		"int8":                   {int8(-5), int64(-5)},
		"int64, exact":           {int64(math.MaxInt64 - 1), int64(math.MaxInt64 - 1)},
		"uint8":                  {uint8(200), int64(200)},
		"uint64":                 {uint64(math.MaxInt64), int64(math.MaxInt64)},
		"float32":                {float32(0.5), 0.5},
		"float64":                {math.Inf(1), math.Inf(1)},
		"string":                 {"é", "é"},
		"bytes":                  {[]byte{1, 0}, []byte{1, 0}},
		"empty bytes":            {[]byte{}, []byte{}},
		"nil bytes":              {[]byte(nil), nil},
		"true":                   {true, int64(1)},
		"false":                  {false, int64(0)},
		"time":                   {when, stored},
		"duration":               {2 * time.Microsecond, int64(2000)},
		"bool kind":              {myBool(true), int64(1)},
		"int kind":               {myInt(7), int64(7)},
		"uint kind":              {myUint(7), int64(7)},
		"float kind":             {myFloat(1.5), 1.5},
		"string kind":            {myString("x"), "x"},
		"bytes kind":             {myBytes("x"), []byte("x")},
		"nil bytes kind":         {myBytes(nil), nil},
		"raw JSON":               {json.RawMessage("{}"), []byte("{}")},
		"JSON number":            {json.Number("12"), "12"},
		"pointer":                {new(3), int64(3)},
		"pointer to pointer":     {new(new("x")), "x"},
		"nil pointer":            {(*int)(nil), nil},
		"pointer to time":        {&when, stored},
		"valuer":                 {pair{"a", "b"}, "a,b"},
		"pointer to valuer":      {&pair{"a", "b"}, "a,b"},
		"nil pointer to valuer":  {(*pair)(nil), nil},
		"valuer by pointer":      {&counter{3}, int64(3)},
		"nil valuer by pointer":  {(*counter)(nil), int64(-1)},
		"null string":            {sql.NullString{}, nil},
		"valid null":             {sql.Null[uint16]{V: 3, Valid: true}, int64(3)},
		"valuer of a time":       {sql.NullTime{Time: when, Valid: true}, stored},
		"enum":                   {descriptorpb.FieldDescriptorProto_TYPE_BOOL, int64(8)},
		"pointer to enum":        {descriptorpb.FieldDescriptorProto_TYPE_BOOL.Enum(), int64(8)},
		"nil pointer to enum":    {(*descriptorpb.FieldDescriptorProto_Type)(nil), nil},
		"message":                {list, blob},
		"empty message":          {&structpb.ListValue{}, []byte{}},
		"nil message":            {(*structpb.ListValue)(nil), nil},
		"Timestamp":              {timestamppb.New(when), stored},
		"nil Timestamp":          {(*timestamppb.Timestamp)(nil), nil},
		"Duration":               {durationpb.New(-1500 * time.Millisecond), int64(-1_500_000_000)},
		"wrapped bool":           {wrapperspb.Bool(true), int64(1)},
		"wrapped int32":          {wrapperspb.Int32(-1), int64(-1)},
		"wrapped int64":          {wrapperspb.Int64(1 << 60), int64(1 << 60)},
		"wrapped uint32":         {wrapperspb.UInt32(math.MaxUint32), int64(math.MaxUint32)},
		"wrapped uint64":         {wrapperspb.UInt64(9), int64(9)},
		"wrapped float":          {wrapperspb.Float(0.5), 0.5},
		"wrapped double":         {wrapperspb.Double(0.1), 0.1},
		"wrapped string":         {wrapperspb.String("x"), "x"},
		"wrapped bytes":          {wrapperspb.Bytes(nil), []byte{}},
		"year 0":                 {time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), "0000-01-01T00:00:00.000000000Z"},
		"the last instant there": {time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), "9999-12-31T23:59:59.999999999Z"},
	} {
		t.Run("SQL-08 "+name, func(t *testing.T) {
			got, err := durable.One[any](t.Context(), s, "SELECT ?", c.arg)
			if err != nil || !cmp.Equal(got, c.want) {
				t.Errorf("%T %v, %v; want %T %v", got, got, err, c.want, c.want)
			}
			if !cmp.Equal(p.args, []any{c.want}) {
				t.Errorf("the port was given %#v", p.args)
			}
			var through any
			if err := s.DB().QueryRowContext(t.Context(), "SELECT ?", c.arg).Scan(&through); err != nil || !cmp.Equal(through, c.want) {
				t.Errorf("through the DB: %T %v, %v", through, through, err)
			}
		})
	}
	for name, c := range map[string]struct {
		arg  any
		want string
	}{
		"uint64 over the largest": {uint64(1) << 63, "9223372036854775808 is over the largest integer"},
		"wrapped uint64":          {wrapperspb.UInt64(1 << 63), "is over the largest integer"},
		"NaN":                     {math.NaN(), "NaN"},
		"float32 NaN":             {float32(math.NaN()), "NaN"},
		"struct":                  {struct{ A int }{}, "a struct { A int } cannot be stored"},
		"pointer to struct":       {&struct{ A int }{}, "a struct { A int } cannot be stored"},
		"map":                     {map[string]int{}, "a map[string]int cannot be stored"},
		"list":                    {[]int{1}, "a []int cannot be stored"},
		"array":                   {[2]byte{}, "a [2]uint8 cannot be stored"},
		"function":                {func() {}, "a func() cannot be stored"},
		"complex":                 {1i, "a complex128 cannot be stored"},
		"year 10000":              {time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), "the year 10000"},
		"year -1":                 {time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), "the year -1"},
		"invalid Timestamp":       {&timestamppb.Timestamp{Nanos: -1}, "out-of-range nanos"},
		"invalid Duration":        {&durationpb.Duration{Seconds: 1, Nanos: -1}, "different signs"},
		"long Duration":           {&durationpb.Duration{Seconds: 1e11}, "more nanoseconds than an integer holds"},
		"failing valuer":          {pair{}, "half a pair"},
		"valuer of a valuer":      {again{pair{"a", "b"}}, "is a driver.Valuer again"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := s.Exec(t.Context(), "SELECT ?, ?", 1, c.arg)
			if !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), "SQL argument 2: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := s.DB().ExecContext(t.Context(), "SELECT ?, ?", 1, c.arg); !errors.Is(err, durable.ErrInvalidArgument) {
				t.Errorf("through the DB: %v", err)
			}
		})
	}
	t.Run("named", func(t *testing.T) {
		type two struct{ A, B any }
		got, err := durable.One[two](t.Context(), s, "SELECT :a AS a, :b AS b", sql.Named("b", true), sql.Named("a", when))
		if err != nil || got != (two{stored, int64(1)}) {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := s.Exec(t.Context(), "SELECT ?", sql.NamedArg{Value: 1}); !errors.Is(err, durable.ErrInvalidArgument) {
			t.Errorf("without a name: %v", err)
		}
		if _, err := s.Exec(t.Context(), "SELECT :a", sql.Named("a", 1i)); !errors.Is(err, durable.ErrInvalidArgument) {
			t.Errorf("named complex: %v", err)
		}
	})
	t.Run("the caller's arguments stay", func(t *testing.T) {
		args := []any{1, "a", true}
		if _, err := s.Exec(t.Context(), "CREATE TABLE IF NOT EXISTS t AS SELECT 1 WHERE 0; INSERT INTO t SELECT 1 WHERE 0 AND ? AND ? AND ?", args...); err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(args, []any{1, "a", true}) {
			t.Errorf("%v", args)
		}
	})
	t.Run("times are ordered as text", func(t *testing.T) {
		got, err := durable.One[bool](t.Context(), s, "SELECT ? < ? AND strftime('%Y %f', ?) = '2026 07.000'", when, when.Add(time.Nanosecond), when)
		if err != nil || !got {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("SQL-09 null differs from empty", func(t *testing.T) {
		got, err := durable.One[[]any](t.Context(), s, "SELECT typeof(?1), typeof(?2), ?3", []byte(nil), []byte{}, make([]byte, 3))
		if err != nil || got[0] != "null" || got[1] != "blob" || !bytes.Equal(got[2].([]byte), []byte{0, 0, 0}) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func BenchmarkBind(b *testing.B) {
	s, _ := newSQL(b)
	b.ReportAllocs()
	for b.Loop() {
		c, err := s.Exec(b.Context(), "SELECT ?, ?, ?", int64(1), "x", 2.5)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
