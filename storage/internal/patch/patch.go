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

// ErrCorrupt is returned for bytes that are not a stored value.
var ErrCorrupt = errors.New("patch: malformed value")

// AppendRaw appends the stored form of a value, uncoded.
func AppendRaw(dst, val []byte) []byte {
	return append(append(dst, tagRaw), val...)
}

// AppendS2 appends the stored form of a value, S2-coded.
func AppendS2(dst, val []byte) []byte {
	return append(append(dst, tagS2), s2.Encode(nil, val)...)
}

// IsOperand reports whether a stored value is a patch or several. It does not
// tell whether it is well formed; see [Check].
func IsOperand(stored []byte) bool {
	return len(stored) > 0 && (stored[0] == tagPatch || stored[0] == tagPatches)
}

// Check returns the length that a value has after the operand was applied to
// it, or [ErrCorrupt] for bytes that are not an operand.
func Check(operand []byte) (length int, err error) {
	if !IsOperand(operand) {
		return 0, ErrCorrupt
	}
	err = eachPatch(operand, func(p []byte) error {
		length, err = checkPatch(p)
		return err
	})
	return length, err
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
		n, err := s2.DecodedLen(body)
		if err != nil || n > MaxLen {
			return nil, 0, fmt.Errorf("%w: S2 length", ErrCorrupt)
		}
		if val, err = s2.Decode(nil, body); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return val, 0, nil
	case tagMerged:
		n, w := binary.Uvarint(body)
		if w <= 0 || n > 1<<31 {
			return nil, 0, fmt.Errorf("%w: count of patches", ErrCorrupt)
		}
		return body[w:], int(n), nil
	case tagPatch, tagPatches:
		return apply(nil, 0, stored)
	}
	return nil, 0, fmt.Errorf("%w: tag %#x", ErrCorrupt, stored[0])
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

// apply folds operands, oldest first, into a value. It does not change val.
func apply(val []byte, merged int, operands ...[]byte) ([]byte, int, error) {
	// One buffer serves all steps: it is as long as the longest of them.
	size := len(val)
	for _, op := range operands {
		err := eachPatch(op, func(p []byte) error {
			n, err := checkPatch(p)
			size = max(size, n)
			merged++
			return err
		})
		if err != nil {
			return nil, 0, err
		}
	}
	buf := append(make([]byte, 0, size), val...)
	for _, op := range operands {
		_ = eachPatch(op, func(p []byte) error {
			buf = applyPatch(buf, p)
			return nil
		})
	}
	return buf, merged, nil
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

// applyPatch applies a patch that was checked to buf, in place.
func applyPatch(buf, p []byte) []byte {
	length, w := binary.Uvarint(p)
	p = p[w:]
	if int(length) <= len(buf) {
		buf = buf[:length]
	} else {
		old := len(buf)
		buf = append(buf, make([]byte, int(length)-old)...)
	}
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
