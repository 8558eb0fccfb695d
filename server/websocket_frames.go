package server

import (
	"encoding/binary"
	"fmt"

	"github.com/gorilla/websocket"

	durable "github.com/durable-go/durable"
)

// Bits and opcodes of RFC 6455 section 5.2.
const (
	frameFinal    = 1 << 7
	frameDeflated = 1 << 6 // RSV1, of RFC 7692
	frameReserved = 3 << 4 // RSV2 and RSV3
	frameMasked   = 1 << 7

	opContinuation = 0
	opControl      = 8 // and above
	maxControl     = 125
)

// frames follows the headers of the frames that a client sends, in chunks of any
// size, and refuses what RFC 6455 section 5 and RFC 7692 do not allow, as far as
// headers show it, and messages over a limit.
type frames struct {
	deflate bool  // permessage-deflate was agreed on
	limit   int64 // of the bytes of a message

	header   [14]byte
	have     int   // bytes of the header that came
	left     int64 // bytes of the payload that are still to come
	closing  bool  // the frame is a close frame
	open     bool  // more frames of a message are to come
	deflated bool  // the message is compressed
	size     int64 // of the message so far

	closed bool // a close frame came; what comes after it is not looked at
	err    error
}

// follow returns how many bytes of p, which come next, are of frames that are
// allowed. If that is not all of them it returns a [*durable.CloseError], then and
// from then on.
func (f *frames) follow(p []byte) (int, error) {
	good := 0 // where the last header begins
	for i := 0; i < len(p) && !f.closed; {
		if f.err != nil {
			return good, f.err
		}
		if f.left > 0 {
			n := min(f.left, int64(len(p)-i))
			f.left -= n
			i += int(n)
			f.endFrame()
			continue
		}
		if f.have == 0 {
			good = i
		}
		f.header[f.have] = p[i]
		f.have++
		i++
		f.err = f.look()
	}
	if f.err != nil {
		return good, f.err
	}
	return len(p), nil
}

// look checks a header to which a byte was added.
func (f *frames) look() error {
	first := f.header[0]
	op := int(first & 0xf)
	if f.have == 1 {
		return f.lookFirst(first, op)
	}
	masked, short := f.header[1]&frameMasked != 0, int64(f.header[1]&^frameMasked)
	extended := 0 // bytes of the length
	switch short {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	switch {
	case f.have == 2 && !masked:
		return badFrame("a frame of a client is not masked")
	case f.have == 2 && op >= opControl && short > maxControl:
		return badFrame("a control frame has more than 125 bytes")
	case f.have == 2 && op == websocket.CloseMessage && short == 1:
		return badFrame("a close frame has half a code")
	case f.have < 2+extended+4: // and the mask
		return nil
	}
	length := short
	switch extended {
	case 2:
		length = int64(binary.BigEndian.Uint16(f.header[2:]))
		if length <= maxControl {
			return badFrame("the length of a frame is not in its shortest form")
		}
	case 8:
		long := binary.BigEndian.Uint64(f.header[2:])
		if long>>63 != 0 {
			return badFrame("the length of a frame has its highest bit set")
		}
		if long <= 0xffff {
			return badFrame("the length of a frame is not in its shortest form")
		}
		length = int64(long)
	}
	if op < opControl {
		if op != opContinuation {
			f.size, f.deflated = 0, first&frameDeflated != 0
		}
		if length > f.allowed()-f.size {
			return tooBig(f.limit)
		}
		f.size += length
		f.open = first&frameFinal == 0
	}
	f.have, f.left, f.closing = 0, length, op == websocket.CloseMessage
	f.endFrame()
	return nil
}

// lookFirst checks the first byte of a header.
func (f *frames) lookFirst(first byte, op int) error {
	control := op >= opControl
	switch {
	case first&frameReserved != 0:
		return badFrame("a reserved bit of a frame is set")
	case first&frameDeflated != 0 && !f.deflate:
		return badFrame("a frame is compressed, which was not agreed on")
	case first&frameDeflated != 0 && (control || op == opContinuation):
		return badFrame("the bit for compression is set in a frame that does not begin a message")
	case op > websocket.BinaryMessage && !control || op > websocket.PongMessage:
		return badFrame(fmt.Sprintf("a frame has the reserved opcode %d", op))
	case control && first&frameFinal == 0:
		return badFrame("a control frame is fragmented")
	case op == opContinuation && !f.open:
		return badFrame("a continuation frame continues no message")
	case !control && op != opContinuation && f.open:
		return badFrame("a message begins inside another")
	}
	return nil
}

// allowed returns how many bytes the frames of a message may have. Compression
// makes some messages larger.
func (f *frames) allowed() int64 {
	if f.deflated {
		return f.limit + f.limit/8 + 64
	}
	return f.limit
}

// endFrame notes the end of a close frame.
func (f *frames) endFrame() { f.closed = f.closing && f.left == 0 }

func badFrame(reason string) error { return refusal(durable.CloseProtocolError, reason) }

func tooBig(limit int64) error {
	return refusal(durable.CloseTooBig, fmt.Sprintf("a message is larger than the limit of %d bytes", limit))
}

// refusal is what a connection ends with that the server closes.
func refusal(code durable.CloseCode, reason string) error {
	return &durable.CloseError{Code: code, Reason: cut(reason, durable.MaxCloseReason), Clean: true, Local: true}
}
