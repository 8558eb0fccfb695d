package patch

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// joinGap is how many equal bytes between two ranges are rather copied than
// skipped: a new range costs two or more bytes.
const joinGap = 4

// AppendDiff appends the operand that turns the value old into the value new.
func AppendDiff(dst, old, new []byte) []byte {
	dst = append(dst, tagPatch)
	dst = binary.AppendUvarint(dst, uint64(len(new)))
	end := 0 // of the last range
	for at := differs(old, new, 0); at < len(new); {
		stop := at + 1
		var next int
		for {
			stop = equals(old, new, stop)
			next = differs(old, new, stop)
			if next >= len(new) || next-stop > joinGap {
				break
			}
			stop = next + 1
		}
		dst = binary.AppendUvarint(dst, uint64(at-end))
		dst = binary.AppendUvarint(dst, uint64(stop-at))
		dst = append(dst, new[at:stop]...)
		end, at = stop, next
	}
	return dst
}

// stride is how many bytes are compared at once while there is no difference.
const stride = 128

// differs returns the first index from i at which old, extended with zeros,
// differs from new.
func differs(old, new []byte, i int) int {
	both := min(len(old), len(new))
	for i+stride <= both && bytes.Equal(old[i:i+stride], new[i:i+stride]) {
		i += stride
	}
	for ; i+8 <= both; i += 8 {
		if x := word(old, i) ^ word(new, i); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < both && old[i] == new[i] {
		i++
	}
	if i < both {
		return i
	}
	for ; i+8 <= len(new); i += 8 {
		if x := word(new, i); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < len(new) && new[i] == 0 {
		i++
	}
	return i
}

// equals returns the first index from i at which they do not differ.
func equals(old, new []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	both := min(len(old), len(new))
	for ; i+8 <= both; i += 8 {
		x := word(old, i) ^ word(new, i)
		// The lowest bit that is set is the top of the lowest zero byte.
		if zero := (x - ones) &^ x & tops; zero != 0 {
			return i + bits.TrailingZeros64(zero)/8
		}
	}
	for i < len(new) && !same(old, new, i) {
		i++
	}
	return i
}

func word(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

func same(old, new []byte, i int) bool {
	if i < len(old) {
		return old[i] == new[i]
	}
	return new[i] == 0
}
