package server_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/server"
)

var mask = []byte{0x12, 0x34, 0x56, 0x78}

// frameOf returns a frame of a client: its first byte, and its payload, masked.
func frameOf(first byte, payload []byte) []byte {
	head := []byte{first, 0x80 | byte(len(payload))}
	switch {
	case len(payload) > 0xffff:
		head = binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, uint64(len(payload)))
	case len(payload) > 125:
		head = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(len(payload)))
	}
	return append(append(head, mask...), masked(payload)...)
}

func masked(payload []byte) []byte {
	out := bytes.Clone(payload)
	for i := range out {
		out[i] ^= mask[i%4]
	}
	return out
}

// deflated compresses the payload of a message: RFC 7692 section 7.2.1.
func deflated(payload []byte) []byte {
	var buf bytes.Buffer
	w, _ := flate.NewWriter(&buf, flate.BestCompression)
	_, _ = w.Write(payload)
	_ = w.Flush()
	return bytes.TrimSuffix(buf.Bytes(), []byte{0, 0, 0xff, 0xff})
}

func closeBody(code uint16, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, code), reason...)
}

// RFC 6455, rule by rule, with compression agreed on and without.
func TestSocketFrames(t *testing.T) {
	t.Parallel()
	const (
		fin, rsv1, rsv2, rsv3 = 0x80, 0x40, 0x20, 0x10
		cont, text, binaryOp  = 0x0, 0x1, 0x2
		closeOp, ping, pong   = 0x8, 0x9, 0xa
		any, plain, packed    = 0, 1, 2 // only where compression is not agreed on, or only where it is
	)
	hello := []byte(`{"text":"hello"}`)
	type row struct {
		rule   string
		where  int
		frames []byte
		code   durable.CloseCode // 0: the message is echoed
		reason string
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	rows := []row{
		// What is allowed.
		{"a message", any, frameOf(fin|text, hello), 0, ""},
		{"a binary message", any, frameOf(fin|binaryOp, []byte("\x0a\x05hello")), 0, ""},
		{"5.4: fragments", any, join(frameOf(text, hello[:3]), frameOf(cont, nil), frameOf(cont, hello[3:9]), frameOf(fin|cont, hello[9:])), 0, ""},
		{"5.4: the first fragment is empty", any, join(frameOf(text, nil), frameOf(fin|cont, hello)), 0, ""},
		{"5.4: control frames between fragments", any, join(frameOf(text, hello[:3]), frameOf(fin|pong, []byte("x")), frameOf(fin|cont, hello[3:])), 0, ""},
		{"5.5.3: a pong nobody asked for", any, join(frameOf(fin|pong, bytes.Repeat([]byte("p"), 125)), frameOf(fin|text, hello)), 0, ""},
		{"5.2: 126 bytes", any, frameOf(fin|text, fmt.Appendf(nil, "%-126s", hello)), 0, ""},
		{"5.2: 65,535 bytes", any, frameOf(fin|text, fmt.Appendf(nil, "%-65535s", hello)), 0, ""},
		{"5.2: 65,536 bytes", any, frameOf(fin|text, fmt.Appendf(nil, "%-65536s", hello)), 0, ""},
		{"UTF-8 split between fragments", any, join(frameOf(text, []byte("{\"text\":\"\xc3")), frameOf(fin|cont, []byte("\xa9\"}"))), 0, ""},
		{"RFC 7692: compressed", packed, frameOf(fin|rsv1|text, deflated(hello)), 0, ""},
		{"RFC 7692 6.1: compressed fragments", packed, join(frameOf(rsv1|text, deflated(hello)[:3]), frameOf(fin|cont, deflated(hello)[3:])), 0, ""},
		{"RFC 7692 6: not every message is compressed", packed, join(frameOf(fin|text, hello)), 0, ""},

		// What is not.
		{"5.1: not masked", any, append([]byte{fin | text, byte(len(hello))}, hello...), 1002, "a frame of a client is not masked"},
		{"5.1: a control frame that is not masked", any, []byte{fin | ping, 0}, 1002, "a frame of a client is not masked"},
		{"5.2: RSV1", plain, frameOf(fin|rsv1|text, hello), 1002, "a frame is compressed, which was not agreed on"},
		{"5.2: RSV2", any, frameOf(fin|rsv2|text, hello), 1002, "a reserved bit of a frame is set"},
		{"5.2: RSV3", any, frameOf(fin|rsv3|text, hello), 1002, "a reserved bit of a frame is set"},
		{"5.2: RSV2 of a control frame", any, frameOf(fin|rsv2|ping, nil), 1002, "a reserved bit of a frame is set"},
		{"RFC 7692 6: RSV1 of a continuation", packed, join(frameOf(text, hello[:3]), frameOf(fin|rsv1|cont, hello[3:])), 1002, "does not begin a message"},
		{"RFC 7692 6: RSV1 of a control frame", packed, frameOf(fin|rsv1|ping, nil), 1002, "does not begin a message"},
		{"5.2: not the shortest 16-bit length", any, join([]byte{fin | text, 0x80 | 126, 0, 16}, mask, masked(hello)), 1002, "not in its shortest form"},
		{"5.2: not the shortest 64-bit length", any, join([]byte{fin | text, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 16}, mask, masked(hello)), 1002, "not in its shortest form"},
		{"5.2: a 64-bit length that 16 bits hold", any, join([]byte{fin | text, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, mask), 1002, "not in its shortest form"},
		{"5.2: the highest bit of a length", any, join([]byte{fin | text, 0x80 | 127, 0x80, 0, 0, 0, 0, 1, 0, 0}, mask), 1002, "has its highest bit set"},
		{"5.4: a continuation of nothing", any, frameOf(fin|cont, hello), 1002, "a continuation frame continues no message"},
		{"5.4: a continuation after the end", any, join(frameOf(fin|text, hello), frameOf(fin|cont, hello)), 1002, "a continuation frame continues no message"},
		{"5.4: a message inside another", any, join(frameOf(text, hello), frameOf(fin|text, hello)), 1002, "a message begins inside another"},
		{"5.4: a binary message inside a text", any, join(frameOf(text, hello), frameOf(fin|binaryOp, hello)), 1002, "a message begins inside another"},
		{"5.5: a control frame of 126 bytes", any, frameOf(fin|ping, make([]byte, 126)), 1002, "a control frame has more than 125 bytes"},
		{"5.5: a fragment of a control frame", any, frameOf(ping, nil), 1002, "a control frame is fragmented"},
		{"5.5.1: half a close code", any, frameOf(fin|closeOp, []byte{3}), 1002, "a close frame has half a code"},
		{"5.5.1: a reason that is not UTF-8", any, frameOf(fin|closeOp, closeBody(1000, "\xff")), 1002, "invalid utf8 payload in close frame"},
		{"7.4.1: a message that is not UTF-8", any, frameOf(fin|text, []byte("{\"text\":\"\xc3\"}")), 1007, "a text frame is not UTF-8"},
		{"8.1: a message that ends in half a character", any, join(frameOf(text, []byte("{}")), frameOf(fin|cont, []byte("\xe2\x82"))), 1007, "a text frame is not UTF-8"},
		{"8.1: an encoded surrogate", any, frameOf(fin|text, []byte("{\"text\":\"\xed\xa0\x80\"}")), 1007, "a text frame is not UTF-8"},
		{"a message over the limit", any, join([]byte{fin | text, 0x80 | 127, 0, 0, 0, 0, 0x10, 0, 0, 0}, mask), 1009, "larger than the limit of 100000 bytes"},
		{"fragments over the limit", any, join(frameOf(text, make([]byte, 60000)), []byte{fin | cont, 0x80 | 126, 0xc3, 0x50}, mask), 1009, "larger than the limit of 100000 bytes"},
		{"a compressed message over the limit", packed, frameOf(fin|rsv1|text, deflated(make([]byte, 100001))), 1009, "larger than the limit of 100000 bytes"},
		{"a compressed message that nearly is", packed, frameOf(fin|rsv1|text, deflated(fmt.Appendf(nil, "%-100000s", hello))), 0, ""},
		{"what is not compressed data", packed, frameOf(fin|rsv1|text, []byte("\xff\xff\xff\xff")), 1007, "a compressed message cannot be decompressed"},
		{"half of the compressed data", packed, frameOf(fin|rsv1|text, deflated([]byte(strings.Repeat("abc", 100) + "de"))[:4]), 1007, "a compressed message cannot be decompressed"},

		// Close frames.
		{"5.5.1: a close frame without a code", any, frameOf(fin|closeOp, nil), 1005, ""},
		{"5.5.1: a close frame", any, frameOf(fin|closeOp, closeBody(1000, "bye")), 1000, "bye"},
		{"5.5.1: what follows a close frame", any, join(frameOf(fin|closeOp, closeBody(1000, "bye")), []byte{0xff, 0xff}), 1000, "bye"},
		{"5.5.1: a close frame inside a message", any, join(frameOf(text, hello), frameOf(fin|closeOp, closeBody(3000, ""))), 3000, ""},
		{"5.5.1: the longest reason", any, frameOf(fin|closeOp, closeBody(4999, strings.Repeat("r", 123))), 4999, strings.Repeat("r", 123)},
	}
	for op := byte(0x3); op <= 0x7; op++ {
		rows = append(rows, row{fmt.Sprintf("5.2: opcode %d", op), any, frameOf(fin|op, nil), 1002, fmt.Sprintf("the reserved opcode %d", op)})
	}
	for op := byte(0xb); op <= 0xf; op++ {
		rows = append(rows, row{fmt.Sprintf("5.2: opcode %d", op), any, frameOf(fin|op, nil), 1002, fmt.Sprintf("the reserved opcode %d", op)})
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535} {
		rows = append(rows, row{fmt.Sprintf("7.4: close code %d", code), any, frameOf(fin|closeOp, closeBody(code, "")), 1002, fmt.Sprintf("bad close code %d", code)})
	}
	s := startChat(t, new(lab.Lab), server.WithMaxMessageBytes(100000))
	for _, compress := range []bool{false, true} {
		for i, r := range rows {
			if r.where == plain && compress || r.where == packed && !compress {
				continue
			}
			t.Run(fmt.Sprintf("%s/compression %v", r.rule, compress), func(t *testing.T) {
				t.Parallel()
				p := dialing{compress: compress}.open(t, s, fmt.Sprintf("/-/name/%d-%v%s", i, compress, joinPath))
				p.raw(r.frames)
				switch {
				case r.code == 0:
					want := &labv1.JoinResponse{Text: "hello", Number: 1}
					if strings.Contains(r.rule, "UTF-8") {
						want.Text = "é"
					}
					p.wants(websocket.TextMessage, want)
					p.closes(durable.CloseNormal, "")
				case strings.Contains(r.rule, "after the end"): // what came before it counts
					p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "hello", Number: 1})
					fallthrough
				default:
					p.ends(r.code, r.reason)
				}
			})
		}
	}
}

// Long messages are compressed, for those who offer that, and are the same.
func TestSocketCompression(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("hello, hello. ", 1000)
	for name, c := range map[string]struct {
		extensions string
		opts       []server.Option
		agreed     bool
	}{
		"offered":         {"permessage-deflate; client_max_window_bits", nil, true},
		"not offered":     {"", nil, false},
		"switched off":    {"permessage-deflate", []server.Option{server.WithoutWebSocketCompression()}, false},
		"a smaller frame": {"permessage-deflate; server_max_window_bits=9", nil, false},
		"something else":  {"x-webkit-deflate-frame", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startChat(t, new(lab.Lab), c.opts...)
			conn, res := rawHandshake(t, s, roomPath, "Sec-WebSocket-Extensions: "+c.extensions+"\r\n")
			if agreed := strings.Contains(res.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate"); agreed != c.agreed {
				t.Fatalf("agreed on %q", res.Header.Get("Sec-Websocket-Extensions"))
			}
			for i, text := range []string{"short", long} {
				go func() { _, _ = conn.Write(frameOf(0x81, fmt.Appendf(nil, `{"text":%q}`, text))) }()
				packed, size, got := readFrames(t, conn)
				if packed != (c.agreed && i == 1) || packed && size > len(long)/10 {
					t.Errorf("the answer to a message of %d bytes: compressed %v, in %d bytes", len(text), packed, size)
				}
				if !strings.Contains(string(got), text) {
					t.Errorf("the answer is %.200s", got)
				}
			}
		})
	}
}

// readFrames reads one message of the server: whether it is compressed, how many
// bytes its frames have, and what they say.
func readFrames(t *testing.T, r io.Reader) (packed bool, size int, message []byte) {
	t.Helper()
	for first := true; ; first = false {
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		length := int(head[1])
		if length >= 126 {
			ext := make([]byte, map[int]int{126: 2, 127: 8}[length])
			if _, err := io.ReadFull(r, ext); err != nil {
				t.Fatal(err)
			}
			length = int(binary.BigEndian.Uint64(append(make([]byte, 8-len(ext)), ext...)))
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(r, payload); err != nil {
			t.Fatal(err)
		}
		if first {
			packed = head[0]&0x40 != 0
		}
		message = append(message, payload...)
		if head[0]&0x80 != 0 {
			break
		}
	}
	size = len(message)
	if packed {
		tail := "\x00\x00\xff\xff\x01\x00\x00\xff\xff"
		var err error
		if message, err = io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(message), strings.NewReader(tail)))); err != nil {
			t.Fatal(err)
		}
	}
	return packed, size, message
}

// A message of a few bytes that would fill the memory is cut off.
func TestSocketDecompressionBomb(t *testing.T) {
	t.Parallel()
	bomb := deflated(make([]byte, 64<<20)) // about 64 KiB
	s := startChat(t, new(lab.Lab))
	p := dialing{compress: true}.open(t, s, roomPath)
	p.raw(frameOf(0x80|0x40|0x2, bomb))
	p.ends(1009, "a message is larger than the limit of 4194304 bytes")
	openSocket(t, s, roomPath).echoes("unharmed", 1)
}
