package durable

import "strings"

// trimSQL returns text without what follows its last statement: white space,
// comments and semicolons. Offsets in what is left are those in text.
func trimSQL(text string) string {
	end := 0
	for i := 0; i < len(text); {
		n, blank := nextSQL(text[i:])
		i += n
		if !blank {
			end = i
		}
	}
	return text[:end]
}

// nextSQL returns the length of what text begins with, and whether that is part
// of no statement. It knows as much of SQLite's tokens as that takes: what opens
// with a quote or as a comment is one, everything else goes byte by byte. What is
// not closed goes to the end.
func nextSQL(text string) (n int, blank bool) {
	switch c := text[0]; {
	case c == ';':
		return 1, true
	case strings.IndexByte(" \t\n\f\r", c) >= 0:
		// To SQLite, a vertical tab may go on white space but not begin it.
		return len(text) - len(strings.TrimLeft(text, " \t\n\v\f\r")), true
	case strings.HasPrefix(text, "\ufeff"): // white space to SQLite
		return len("\ufeff"), true
	case strings.HasPrefix(text, "--"):
		return upTo(text, 2, "\n"), true
	case strings.HasPrefix(text, "/*") && len(text) > 2: // two operators, as the last of the text
		return upTo(text, 2, "*/"), true
	case c == '[':
		return upTo(text, 1, "]"), false
	case c == '\'', c == '"', c == '`':
		// A doubled quote inside is the end of one string and the start of
		// another: both are of the same statement.
		return upTo(text, 1, text[:1]), false
	}
	return 1, false
}

// upTo returns where the first end in text, not before from, ends.
func upTo(text string, from int, end string) int {
	if i := strings.Index(text[from:], end); i >= 0 {
		return from + i + len(end)
	}
	return len(text)
}
