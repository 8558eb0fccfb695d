// Package patch is the form of stored values and the one merge operator of a
// store. It knows no engine.
//
// A stored value begins with a tag byte:
//
//	0x01  raw: the value itself
//	0x02  S2: the value, coded as one S2 block
//	0x03  patch: a change of whatever value stands before it
//	0x04  patches: several changes, oldest first, each with its length in front
//	0x05  merged: how many patches went into the value, and the value itself
//
// Tags 0x01, 0x02 and 0x05 hold a whole value, a base. 0x03 and 0x04 are operands
// of the merge operator. A patch is
//
//	length  | gap | n | n bytes | gap | n | n bytes | …
//
// where all numbers are unsigned varints: the length of the value afterwards,
// then ranges in ascending order, each as its distance from the end of the range
// before it, its size and its bytes. To apply a patch, cut the value to that
// length or extend it with zero bytes, then write the ranges. A value that does
// not exist is empty.
package patch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// The tags.
const (
	tagRaw     = 0x01
	tagS2      = 0x02
	tagPatch   = 0x03
	tagPatches = 0x04
	tagMerged  = 0x05
)

// MaxLen is the longest value that this package makes.
const MaxLen = 64 << 20

// maxMerged is where the count of patches stops.
const maxMerged = 1<<31 - 1

// ErrCorrupt is returned for bytes that are not a stored value.
var ErrCorrupt = errors.New("patch: malformed value")

// AppendRaw appends the stored form of a value, uncoded.
func AppendRaw(dst, val []byte) []byte {
	return append(append(dst, tagRaw), val...)
}

// AppendS2 appends the stored form of a value, S2-coded. It allocates unless dst
// has space for the worst case, which is a little more than the value.
func AppendS2(dst, val []byte) []byte {
	dst = append(extend(dst, 1+s2.MaxEncodedLen(len(val))), tagS2)
	return dst[:len(dst)+len(s2.Encode(dst[len(dst):cap(dst)], val))]
}

// minS2 is the length of the longest value that is not worth S2.
const minS2 = 256

// AppendShort appends the stored form of a value, S2-coded if it is longer than
// 256 bytes and that makes it at least an eighth shorter. Otherwise coded is
// false, and nothing but [AppendRaw] is left to do.
func AppendShort(dst, val []byte) (out []byte, coded bool) {
	if len(val) <= minS2 {
		return dst, false
	}
	out = AppendS2(dst, val)
	if len(out)-len(dst) > len(val)-len(val)/8 {
		return out[:len(dst)], false
	}
	return out, true
}

// IsOperand reports whether a stored value is a patch or several. It does not
// tell whether it is well formed; see [Check].
func IsOperand(stored []byte) bool {
	return len(stored) > 0 && (stored[0] == tagPatch || stored[0] == tagPatches)
}

// Check returns the length that a value has after the operand was applied to
// it, or [ErrCorrupt] for bytes that are not an operand.
func Check(operand []byte) (length int, err error) {
	var t tally
	err = t.add(operand)
	return t.last, err
}

// Decode returns the value that a stored value holds. It may share memory with
// stored. merged is the number of patches that were folded into it since it was
// last written whole. An operand is applied to the empty value.
func Decode(stored []byte) (val []byte, merged int, err error) {
	if len(stored) == 0 {
		return nil, 0, ErrCorrupt
	}
	body := stored[1:]
	switch stored[0] {
	case tagRaw:
		return body, 0, nil
	case tagS2:
		val, err = appendS2Value(nil, body)
		return val, 0, err
	case tagMerged:
		n, w := binary.Uvarint(body)
		if w <= 0 || n > maxMerged {
			return nil, 0, fmt.Errorf("%w: count of patches", ErrCorrupt)
		}
		return body[w:], int(n), nil
	case tagPatch, tagPatches:
		return appendPatched(nil, stored)
	}
	return nil, 0, fmt.Errorf("%w: tag %#x", ErrCorrupt, stored[0])
}

// Len returns the length of the value that a stored value holds. The value may
// turn out not to be well formed later; see [Decode].
func Len(stored []byte) (int, error) {
	if len(stored) == 0 {
		return 0, ErrCorrupt
	}
	switch stored[0] {
	case tagS2:
		return s2Len(stored[1:])
	case tagPatch, tagPatches:
		return Check(stored)
	}
	val, _, err := Decode(stored)
	return len(val), err
}

// AppendValue is [Decode] with a value that is appended to dst, and shares no
// memory with stored. The result is never nil without an error.
func AppendValue(dst, stored []byte) (out []byte, merged int, err error) {
	switch {
	case len(stored) > 0 && stored[0] == tagS2:
		out, err = appendS2Value(dst, stored[1:])
		return out, 0, err
	case IsOperand(stored):
		return appendPatched(dst, stored)
	}
	val, merged, err := Decode(stored)
	if err != nil {
		return nil, 0, err
	}
	return append(extend(dst, len(val)), val...), merged, nil
}

// appendPatched appends what an operand makes of the empty value.
func appendPatched(dst, operand []byte) (out []byte, merged int, err error) {
	var t tally
	if err := t.add(operand); err != nil {
		return nil, 0, err
	}
	return appendApplied(extend(dst, t.longest), nil, operand), t.patches, nil
}

// extend returns dst with space for n bytes more.
func extend(dst []byte, n int) []byte {
	if dst == nil || cap(dst)-len(dst) < n {
		return append(make([]byte, 0, len(dst)+n), dst...)
	}
	return dst
}

// appendS2Value appends what an S2 block holds.
func appendS2Value(dst, block []byte) ([]byte, error) {
	n, err := s2Len(block)
	if err != nil {
		return nil, err
	}
	dst = extend(dst, n)
	end := len(dst)
	if _, err := s2.Decode(dst[end:end+n:end+n], block); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return dst[:end+n], nil
}

func s2Len(block []byte) (int, error) {
	n, err := s2.DecodedLen(block)
	if err != nil || n > MaxLen {
		return 0, fmt.Errorf("%w: S2 length", ErrCorrupt)
	}
	return n, nil
}

// Apply returns the stored value that remains when operands, oldest first, are
// merged into base. A nil base is a value that does not exist.
func Apply(base []byte, operands ...[]byte) ([]byte, error) {
	var m Merge
	if len(operands) == 0 {
		return base, nil
	}
	if base != nil {
		if err := m.Newer(base); err != nil {
			return nil, err
		}
	}
	for _, op := range operands {
		if err := m.Newer(op); err != nil {
			return nil, err
		}
	}
	return m.Finish(true)
}

// A tally is what one pass over operands, oldest first, tells.
type tally struct {
	patches int
	longest int // length of the value on the way
	last    int // and at the end
}

func (t *tally) add(operand []byte) error {
	return eachPatch(operand, func(p []byte) (err error) {
		t.last, err = checkPatch(p)
		t.longest = max(t.longest, t.last)
		t.patches = min(t.patches+1, maxMerged)
		return err
	})
}

// appendApplied appends val after operands, oldest first, that were checked. dst
// has space for the longest value on the way.
func appendApplied(dst, val []byte, operands ...[]byte) []byte {
	end := len(dst)
	buf := append(dst[end:], val...)
	for _, op := range operands {
		_ = eachPatch(op, func(p []byte) error {
			buf = applyPatch(buf, p)
			return nil
		})
	}
	return dst[:end+len(buf)]
}

// eachPatch calls f with every patch of an operand, oldest first.
func eachPatch(operand []byte, f func(p []byte) error) error {
	if !IsOperand(operand) {
		return ErrCorrupt
	}
	body := operand[1:]
	if operand[0] == tagPatch {
		return f(body)
	}
	if len(body) == 0 {
		return fmt.Errorf("%w: no patch", ErrCorrupt)
	}
	for len(body) > 0 {
		n, w := binary.Uvarint(body)
		if w <= 0 || n > uint64(len(body)-w) {
			return fmt.Errorf("%w: length of a patch", ErrCorrupt)
		}
		if err := f(body[w : w+int(n)]); err != nil {
			return err
		}
		body = body[w+int(n):]
	}
	return nil
}

// checkPatch returns the length of the value after p.
func checkPatch(p []byte) (int, error) {
	length, w := binary.Uvarint(p)
	if w <= 0 || length > MaxLen {
		return 0, fmt.Errorf("%w: length of a patched value", ErrCorrupt)
	}
	p = p[w:]
	end := uint64(0)
	for len(p) > 0 {
		gap, w1 := binary.Uvarint(p)
		if w1 <= 0 || gap > length-end {
			return 0, fmt.Errorf("%w: offset of a range", ErrCorrupt)
		}
		n, w2 := binary.Uvarint(p[w1:])
		if w2 <= 0 || n > uint64(len(p)-w1-w2) || n > length-end-gap {
			return 0, fmt.Errorf("%w: size of a range", ErrCorrupt)
		}
		end += gap + n
		p = p[w1+w2+int(n):]
	}
	return int(length), nil
}

// applyPatch applies a patch that was checked to buf, in place. buf has space for
// the value afterwards.
func applyPatch(buf, p []byte) []byte {
	length, w := binary.Uvarint(p)
	p = p[w:]
	old := min(len(buf), int(length))
	buf = buf[:length]
	clear(buf[old:])
	at := 0
	for len(p) > 0 {
		gap, w1 := binary.Uvarint(p)
		n, w2 := binary.Uvarint(p[w1:])
		at += int(gap)
		at += copy(buf[at:], p[w1+w2:w1+w2+int(n)])
		p = p[w1+w2+int(n):]
	}
	return buf
}
