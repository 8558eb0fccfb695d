package sqllogic

import (
	"math"
	"testing"
)

func TestRender(t *testing.T) {
	for _, c := range []struct {
		column byte
		value  any
		want   string
	}{
		{'I', nil, "NULL"},
		{'R', nil, "NULL"},
		{'T', nil, "NULL"},
		{'I', int64(-7), "-7"},
		{'I', 2.9, "2"},
		{'I', -2.9, "-2"},
		{'I', "42 apples", "42"},
		{'I', "apples", "0"},
		{'I', "", "0"},
		{'I', []byte("8"), "8"},
		{'R', int64(3), "3.000"},
		{'R', 0.0005, "0.001"},
		{'R', 0.0004, "0.000"},
		{'R', 0.00001, "0.000"},
		{'R', 9.9996, "10.000"},
		{'R', -1234.5678, "-1234.568"},
		{'R', math.MinInt64 * 2.0, "-18446744073709550000.000"},
		{'R', math.Inf(-1), "-Inf"},
		{'R', "1.5x", "1.500"},
		{'T', "", "(empty)"},
		{'T', []byte{}, "(empty)"},
		{'T', " a~", " a~"},
		{'T', "a\tb\nc\x00d\x7f", "a@b@c@d@"},
		{'T', "é", "@@"},
		{'T', []byte{0xff, 'x'}, "@x"},
		{'T', int64(12), "12"},
		{'T', 12.0, "12.0"},
		{'T', 1.0 / 3, "0.333333333333333"},
		{'T', 1e20, "1.0e+20"},
		{'T', -1.5e-7, "-1.5e-07"},
		{'T', 1e100, "1.0e+100"},
	} {
		if got, err := render(c.column, c.value); got != c.want || err != nil {
			t.Errorf("%T %v in a column of type %c: %q, %v; want %q", c.value, c.value, c.column, got, err, c.want)
		}
	}
	if _, err := render('I', 3); err == nil {
		t.Error("an int is no value of a DB, but was rendered")
	}
}
