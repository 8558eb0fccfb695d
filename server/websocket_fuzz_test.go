package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	durable "github.com/durable-go/durable"
)

// refFrames is what frames does, of all bytes at once: how many bytes are of
// whole headers and payloads that are allowed, the code of what is not, and
// whether a close frame came.
func refFrames(data []byte, deflate bool, limit uint64) (good int, code durable.CloseCode, closed bool) {
	var open, packed bool
	var size uint64
	for good < len(data) {
		rest := data[good:]
		fin, rsv1, rsv, op := rest[0]>>7 == 1, rest[0]>>6&1 == 1, rest[0]>>4&3, rest[0]&15
		known := op <= 2 || op >= 8 && op <= 10
		if !known || rsv != 0 || rsv1 && (!deflate || op != 1 && op != 2) || op >= 8 && !fin || op == 0 && !open || (op == 1 || op == 2) && open {
			return good, 1002, false
		}
		if len(rest) < 2 {
			return good, 0, false
		}
		length, header := uint64(rest[1]&127), 6
		if rest[1] < 128 || op >= 8 && length > 125 || op == 8 && length == 1 {
			return good, 1002, false
		}
		switch length {
		case 126:
			header = 8
		case 127:
			header = 14
		}
		if len(rest) < header {
			return good, 0, false
		}
		switch length {
		case 126:
			if length = uint64(binary.BigEndian.Uint16(rest[2:])); length < 126 {
				return good, 1002, false
			}
		case 127:
			if length = binary.BigEndian.Uint64(rest[2:]); length < 65536 || length >= 1<<63 {
				return good, 1002, false
			}
		}
		if op == 1 || op == 2 {
			size, packed = 0, rsv1
		}
		if op < 8 {
			allowed := limit
			if packed {
				allowed += limit/8 + 64
			}
			if size += length; size > allowed {
				return good, 1009, false
			}
			open = !fin
		}
		if uint64(len(rest)-header) < length {
			return len(data), 0, false
		}
		good += header + int(length)
		if op == 8 {
			return len(data), 0, true
		}
	}
	return good, 0, false
}

// In chunks of any size the follower says the same of the same bytes: it lets
// through what is allowed, and at most the part of the header that came before
// the byte that is not.
func FuzzSocketFrames(f *testing.F) {
	f.Add([]byte("\x81\x85\x01\x02\x03\x04hello\x89\x80\x01\x02\x03\x04\x88\x82\x01\x02\x03\x04\x02\xea"), true, []byte{1, 2, 3})
	f.Add([]byte("\x01\x81\x01\x02\x03\x04h\x8a\x80\x01\x02\x03\x04\x80\x80\x01\x02\x03\x04\x83"), false, []byte{7})
	f.Add([]byte("\xc1\xfe\x00\x7e\x01\x02\x03\x04"), true, []byte{1})
	f.Add([]byte("\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00\x01\x02\x03\x04"), true, []byte{5, 9})
	f.Add(append([]byte("\x82\xfe\x00\x7e\x01\x02\x03\x04"), make([]byte, 140)...), true, []byte{3})
	f.Fuzz(func(t *testing.T, data []byte, deflate bool, chunks []byte) {
		const limit = 1000
		want, code, closed := refFrames(data, deflate, limit)
		fr := frames{deflate: deflate, limit: limit}
		var passed []byte
		var err error
		rest := data
		for i := 0; len(rest) > 0 && err == nil; i++ {
			n := len(rest)
			if len(chunks) > 0 {
				n = min(n, int(chunks[i%len(chunks)])%16+1)
			}
			var good int
			good, err = fr.follow(rest[:n])
			if good > n || err == nil && good != n {
				t.Fatalf("%d of %d bytes passed, %v", good, n, err)
			}
			passed, rest = append(passed, rest[:good]...), rest[n:]
		}
		var refused *durable.CloseError
		errors.As(err, &refused)
		switch {
		case code == 0 && (err != nil || !bytes.Equal(passed, data)):
			t.Fatalf("%d of %d allowed bytes passed: %v", len(passed), len(data), err)
		case code != 0 && (refused == nil || refused.Code != code):
			t.Fatalf("refused with %v, want %d at byte %d", err, code, want)
		case code != 0 && (len(passed) < want || len(passed) >= want+len(fr.header)):
			t.Fatalf("%d bytes passed before the refusal of the frame at byte %d", len(passed), want)
		case fr.closed != closed:
			t.Fatalf("a close frame came: %v, want %v", fr.closed, closed)
		}
		if err != nil {
			if n, again := fr.follow([]byte{0x81}); n != 0 || again != err { //nolint:errorlint // the very same
				t.Fatalf("after a refusal %d bytes pass, %v", n, again)
			}
		}
	})
}
