package server

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect/v2"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// A socket is the network end of a connection over a WebSocket. It holds no
// goroutine but the one that runs it, and no buffers for messages while none
// comes or leaves.
type socket struct {
	conn   socketConn
	ws     *websocket.Conn
	group  *sockets
	route  *route
	binary bool        // what the server sends
	told   atomic.Bool // the peer was told of the end
	// unwatch ends the watch for a drain before the first message; nil after it.
	unwatch func() bool
}

type socketContext struct{}

// run serves the connection until its end.
func (p *socket) run(ctx context.Context, info *connect.CallInfo) {
	defer p.group.s.removeSocket()
	defer func() { _ = p.conn.Close() }()
	var h *held
	var err error
	if len(p.group.s.opts.interceptors) > 0 {
		err = p.call(ctx, info)
	} else if h, err = p.open(ctx, info); err == nil {
		// What is on the stack and in the context here costs memory for as long as
		// the connection lasts.
		err = h.serve(ctx)
	}
	if p.conn.lost {
		return
	}
	p.tell(closeStatus(err)) // unless finish did
	p.conn.linger()
}

// open is what call does, without interceptors, until the connection is open.
func (p *socket) open(ctx context.Context, info *connect.CallInfo) (*held, error) {
	outer := outerKeys(ctx, p.route, info)
	defer p.awaitFirst(outer)()
	return p.group.s.connect(durable.ContextWithCallInfo(ctx, callInfo(p.route, info)), p.route, outer, p)
}

// call passes the interceptors, and from there comes to serve.
func (p *socket) call(ctx context.Context, info *connect.CallInfo) (err error) {
	defer func() {
		// As package http does for interceptors of other calls. Panics of handlers
		// do not come here.
		v := recover()
		if v == nil {
			return
		}
		failed, _ := v.(error)
		if log := p.group.s.opts.logger; log != nil && !errors.Is(failed, http.ErrAbortHandler) {
			log.Error("an interceptor panicked", "procedure", p.route.method.Procedure, "panic", v, "stack", string(debug.Stack()))
		}
		err = connect.NewError(connect.CodeInternal, "the server failed")
	}()
	return p.group.dispatch.Call(ctx, p.route.method.Procedure, info, socketStream{p})
}

// serve runs the call. stream is what the interceptors made of the socket.
func (p *socket) serve(ctx context.Context, stream connect.ServerStream, outer []candidate) error {
	s := p.group.s
	defer p.awaitFirst(outer)()
	if own, ok := stream.(keylessStream); ok {
		stream = own.ServerStream // decode does the same
	}
	if _, ok := stream.(socketStream); ok {
		return s.stream(ctx, p.route, outer, p)
	}
	return s.stream(ctx, p.route, outer, &wrappedSocket{p, stream})
}

// awaitFirst bounds the time until the first message comes, where the call needs it
// to begin; and until stop is called.
func (p *socket) awaitFirst(outer []candidate) (stop func()) {
	m := p.route.method
	if m.ClientStream && (m.KeyField == nil || len(outer) > 0) {
		return func() {}
	}
	p.conn.firstBy = time.Now().Add(firstMessageTimeout)
	p.unwatch = context.AfterFunc(p.group.s.host.Draining(), func() { p.conn.stop(durable.ErrStreamDrained) })
	return p.cameFirst
}

// cameFirst notes that the first message is not waited for any more: from then on
// the host tells of a drain.
func (p *socket) cameFirst() {
	if p.unwatch != nil {
		p.unwatch()
		p.unwatch, p.conn.firstBy = nil, time.Time{}
	}
}

// buffers are for messages that are being received.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooled is the capacity of the largest buffer that is used again.
const maxPooled = 64 << 10

// Receive implements [actor.StreamPort]. What ends the connection is a
// [*durable.CloseError] where the peer closed it, or broke a rule, which it is told
// by finish; and another error when the peer is gone.
func (p *socket) Receive(msg proto.Message) error {
	kind, r, err := p.ws.NextReader()
	if err != nil {
		return p.ended(err)
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= maxPooled {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	limit := p.group.maxMessage
	if _, err := buf.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return p.ended(err)
	}
	if int64(buf.Len()) > limit { // compressed it was not
		return p.ended(tooBig(limit))
	}
	if err := p.decode(kind, buf.Bytes(), msg); err != nil {
		return p.ended(err)
	}
	p.cameFirst()
	return nil
}

// decode parses a message. data is not used later.
func (p *socket) decode(kind int, data []byte, msg proto.Message) error {
	form, err := "binary", error(nil)
	if kind == websocket.TextMessage {
		form = "JSON"
		switch {
		case !utf8.Valid(data):
			return refusal(durable.CloseInvalidData, "a text frame is not UTF-8")
		case len(data) == 0:
			err = errors.New("it is empty")
		default:
			err = p.group.json.UnmarshalOptions.Unmarshal(data, msg)
		}
	} else {
		err = p.group.proto.UnmarshalOptions.Unmarshal(data, msg)
	}
	if err == nil {
		if err = p.route.keyless(nil, msg); err == nil {
			return nil
		}
		return refusal(closeInvalidArgument, err.Error())
	}
	text := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
	return refusal(closeInvalidArgument, fmt.Sprintf("not %s of %s: %s", form, msg.ProtoReflect().Descriptor().FullName(), text))
}

// ended returns the error of Receive after a read failed.
func (p *socket) ended(err error) error {
	var broken *durable.CloseError
	var closed *websocket.CloseError
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &broken):
		return broken
	case p.conn.err != nil:
		return p.conn.err
	case errors.As(err, &closed):
		return &durable.CloseError{Code: durable.CloseCode(closed.Code), Reason: closed.Text, Clean: true}
	case errors.As(err, &corrupt), errors.Is(err, io.ErrUnexpectedEOF):
		return refusal(durable.CloseInvalidData, "a compressed message cannot be decompressed")
	}
	return badFrame(strings.TrimPrefix(err.Error(), "websocket: ")) // of the body of a close frame
}

// awaitEnd returns when the connection has ended, of a method that takes one
// message.
func (p *socket) awaitEnd(proto.Message) error {
	_, _, err := p.ws.NextReader()
	if err == nil {
		err = refusal(closePolicy, p.route.method.Procedure+" takes one message")
	}
	return p.ended(err)
}

// A socketEncoding tells sockets apart by what the server sends.
type socketEncoding struct{ binary bool }

// encoding implements [network].
func (p *socket) encoding() any { return socketEncoding{p.binary} }

// A socketForm is a message as it leaves by any number of sockets.
type socketForm struct {
	kind int
	data []byte // nil for a long one
	long *websocket.PreparedMessage
}

// encode implements [network]. Compression comes later, and once.
func (p *socket) encode(msg proto.Message) (any, int, error) {
	f := &socketForm{kind: websocket.TextMessage}
	var err error
	if p.binary {
		f.kind = websocket.BinaryMessage
		f.data, err = p.group.proto.MarshalOptions.Marshal(msg)
	} else {
		f.data, err = p.group.json.MarshalOptions.Marshal(msg)
	}
	size := len(f.data)
	if err == nil && size >= compressFrom {
		f.long, err = websocket.NewPreparedMessage(f.kind, f.data)
		f.data = nil
	}
	return f, size, err
}

// sendForm implements [network].
func (p *socket) sendForm(form any, timeout time.Duration) error {
	if form == nil {
		return nil // the handshake is over
	}
	p.conn.writing.Store(true)
	defer p.conn.writing.Store(false)
	f := form.(*socketForm)
	_ = p.ws.SetWriteDeadline(time.Now().Add(timeout))
	p.ws.EnableWriteCompression(f.long != nil)
	var err error
	if f.long != nil {
		err = p.ws.WritePreparedMessage(f.long)
	} else {
		err = p.ws.WriteMessage(f.kind, f.data)
	}
	if isTimeout(err) && !errors.Is(err, durable.ErrSlowPeer) {
		return slowPeer(err)
	}
	return err
}

// Send implements [actor.StreamPort].
func (p *socket) Send(msg proto.Message) error {
	form, _, err := p.encode(msg)
	if err != nil {
		return err
	}
	return p.sendForm(form, p.route.typ.Limits.SendTimeout)
}

// quick implements [network].
func (p *socket) quick() bool { return p.conn.quick() }

// finish implements [network].
func (p *socket) finish(err error, drop bool) {
	if drop {
		p.told.Store(true)
		_ = p.conn.Close()
	} else {
		p.tell(closeStatus(err))
	}
	p.conn.stop(errFinished)
}

const (
	closePolicy          durable.CloseCode = 1008
	closeInvalidArgument                   = 4000 + durable.CloseCode(connect.CodeInvalidArgument)
	closeDeadline                          = 4000 + durable.CloseCode(connect.CodeDeadlineExceeded)
	closeInternal                          = 4000 + durable.CloseCode(connect.CodeInternal)
)

// tell sends the close frame, once.
func (p *socket) tell(code durable.CloseCode, reason string) {
	if p.told.Swap(true) {
		return
	}
	switch {
	case code == durable.CloseNoStatus: // a frame without a body
	case code < 1000 || code > 4999, code == 1004, code == durable.CloseAbnormal, code > 1014 && code < 3000:
		code = closeInternal // a handler refused the connection with what is no code
	}
	body := websocket.FormatCloseMessage(int(code), cut(reason, durable.MaxCloseReason))
	if !p.conn.settle(closeTimeout) {
		_ = p.conn.Close()
		return
	}
	if err := p.ws.WriteControl(websocket.CloseMessage, body, time.Now().Add(closeTimeout)); err != nil {
		_ = p.conn.Close()
	}
}

// A socketStream is a socket as the interceptors see it.
type socketStream struct{ p *socket }

// Receive implements [connect.ServerStream].
func (s socketStream) Receive(msg any) error { return s.p.Receive(msg.(proto.Message)) }

// SendHeaders implements [connect.ServerStream].
func (s socketStream) SendHeaders() error { return nil }

// Send implements [connect.ServerStream].
func (s socketStream) Send(msg any) error { return s.p.Send(msg.(proto.Message)) }

// A wrappedSocket is a socket of which an interceptor wants to see every message.
type wrappedSocket struct {
	socket *socket
	stream connect.ServerStream
}

// Receive implements [actor.StreamPort].
func (w *wrappedSocket) Receive(msg proto.Message) error { return w.stream.Receive(msg) }

// Send implements [actor.StreamPort].
func (w *wrappedSocket) Send(msg proto.Message) error { return w.stream.Send(msg) }

func (w *wrappedSocket) encoding() any                              { return clones{}.encoding() }
func (w *wrappedSocket) encode(msg proto.Message) (any, int, error) { return clones{}.encode(msg) }
func (w *wrappedSocket) finish(err error, drop bool)                { w.socket.finish(err, drop) }
func (w *wrappedSocket) quick() bool                                { return false }
func (w *wrappedSocket) awaitEnd(msg proto.Message) error           { return w.socket.awaitEnd(msg) }

// sendForm implements [network]. The timeout is that of the type, as that of Send.
func (w *wrappedSocket) sendForm(form any, _ time.Duration) error {
	if form == nil {
		return w.stream.SendHeaders()
	}
	return w.stream.Send(proto.Clone(form.(proto.Message))) // others share the form
}
