package sqllogic

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// render writes a value as the format does in a column of type I, R or T. Where
// the value is of another type it is converted as SQLite does.
func render(column byte, value any) (string, error) {
	if b, ok := value.([]byte); ok {
		value = string(b)
	}
	switch value.(type) {
	case nil:
		return "NULL", nil
	case int64, float64, string:
	default:
		return "", fmt.Errorf("a value of the Go type %T", value)
	}
	switch column {
	case 'I':
		return strconv.FormatInt(toInteger(value), 10), nil
	case 'R':
		return decimals(toReal(value)), nil
	default:
		return printable(toText(value)), nil
	}
}

var (
	integerPrefix = regexp.MustCompile(`^[+-]?[0-9]+`)
	realPrefix    = regexp.MustCompile(`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?`)
)

const spaces = " \t\n\v\f\r"

func toInteger(value any) int64 {
	switch v := value.(type) {
	case float64:
		if v >= math.MaxInt64 {
			return math.MaxInt64
		}
		if v <= math.MinInt64 {
			return math.MinInt64
		}
		return int64(v)
	case string:
		// Out of range, the result is the nearest integer; without digits, 0.
		n, _ := strconv.ParseInt(integerPrefix.FindString(strings.TrimLeft(v, spaces)), 10, 64)
		return n
	default:
		return v.(int64)
	}
}

func toReal(value any) float64 {
	switch v := value.(type) {
	case int64:
		return float64(v)
	case string:
		// Out of range, the result is infinite; without digits, 0.
		x, _ := strconv.ParseFloat(realPrefix.FindString(strings.TrimLeft(v, spaces)), 64)
		return x
	default:
		return v.(float64)
	}
}

func toText(value any) string {
	switch v := value.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return realText(v)
	default:
		return v.(string)
	}
}

// decimals writes x as SQLite's own printf does with "%.3f": not more than 16
// digits are significant. Above 1e11 the last of these may differ by one.
func decimals(x float64) string {
	if math.IsInf(x, 0) {
		return infinite(x)
	}
	if x == 0 {
		return "0.000" // without the sign that -0 has
	}
	digits, point := decimal(math.Abs(x), func(point int) int { return min(16, point+3) })
	whole, fraction := place(digits, point, 3)
	return sign(x) + whole + "." + fraction[:3]
}

// realText writes x with at most 15 digits, and always with a point, as SQLite
// did in the versions that the scripts are from; 3.53 writes up to 17.
func realText(x float64) string {
	if math.IsInf(x, 0) {
		return infinite(x)
	}
	if x == 0 {
		return "0.0"
	}
	digits, point := decimal(math.Abs(x), func(int) int { return 15 })
	digits = strings.TrimRight(digits, "0")
	exponent := ""
	if point < -3 || point > 15 {
		exponent = fmt.Sprintf("e%+03d", point-1)
		point = 1
	}
	whole, fraction := place(digits, point, 1)
	return sign(x) + whole + "." + fraction + exponent
}

// decimal returns the decimal digits of x, which is more than 0, and where among
// them the point is. It rounds as SQLite does, half up, to as many digits as keep
// says.
func decimal(x float64, keep func(point int) int) (digits string, point int) {
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(x, 'e', 30, 64), "e")
	point, err := strconv.Atoi(exponent)
	if err != nil {
		panic(err) // FormatFloat wrote it
	}
	point++
	n := keep(point)
	if n < 0 {
		return "", point
	}
	all := "0" + mantissa[:1] + mantissa[2:] // the 0 is for the carry
	kept := []byte(all[:n+1])
	if all[n+1] >= '5' {
		i := n
		for ; kept[i] == '9'; i-- {
			kept[i] = '0'
		}
		kept[i]++
	}
	if kept[0] != '0' {
		return string(kept), point + 1
	}
	return string(kept[1:]), point
}

// place puts the point among the digits, with zeros where they do not reach: at
// least one before it and least after it.
func place(digits string, point, least int) (whole, fraction string) {
	if point <= 0 {
		digits = strings.Repeat("0", 1-point) + digits
		point = 1
	}
	digits += strings.Repeat("0", max(0, point+least-len(digits)))
	return digits[:point], digits[point:]
}

func sign(x float64) string {
	if x < 0 {
		return "-"
	}
	return ""
}

func infinite(x float64) string { return sign(x) + "Inf" }

// printable writes text as one visible line.
func printable(text string) string {
	if text == "" {
		return "(empty)"
	}
	b := []byte(text)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '@'
		}
	}
	return string(b)
}
