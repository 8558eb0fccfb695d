package durable

import (
	"errors"
	"fmt"
	"iter"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
)

// A CloseCode says why a connection ended: a code of RFC 6455 section 7.4.1, one
// of the application from 3000 to 4999, or 4000 and the number of a Connect code,
// 4001 to 4016, for an error of the runtime.
type CloseCode int

// The codes of RFC 6455 that the runtime uses.
const (
	// CloseNormal: the stream ended as it should. gRPC and Connect have it where
	// a stream ends without an error.
	CloseNormal CloseCode = 1000
	// CloseGoingAway: the server drains, or the user left the page.
	CloseGoingAway CloseCode = 1001
	// CloseProtocolError: the peer broke the protocol.
	CloseProtocolError CloseCode = 1002
	// CloseNoStatus: the peer closed without a code. It is never sent.
	CloseNoStatus CloseCode = 1005
	// CloseAbnormal: the peer vanished without closing. It is never sent.
	CloseAbnormal CloseCode = 1006
	// CloseInvalidData: a text that is not UTF-8.
	CloseInvalidData CloseCode = 1007
	// CloseTooBig: a message over the limit.
	CloseTooBig CloseCode = 1009
	// CloseTryAgainLater: the peer reads too slowly, or the object has more work
	// than it can do.
	CloseTryAgainLater CloseCode = 1013
)

const (
	// MaxCloseReason is the length of the longest reason, in bytes of UTF-8; RFC
	// 6455 section 5.5.
	MaxCloseReason = 123
	// MaxConnTags is how many tags a connection may have.
	MaxConnTags = 10
	// MaxConnTagLen is the length of the longest tag, in characters.
	MaxConnTagLen = 256
	// MaxAutoResponse is the length of the longest message of an [AutoResponse],
	// encoded in binary, in bytes.
	MaxAutoResponse = 2048
)

// ResumeHeader is the request header by which a client opens a connection that it
// can resume, and resumes it: a token that the client makes up, of 16 to 128
// letters, digits, '-' and '_', a colon, and how many messages it received on the
// connection so far, 0 at first. The token is a secret. Where the same token comes
// again, the connection goes on with the next message; what was not kept, or never
// sent, is refused with code out of range. See the option resume of
// durable/v1/options.proto. For WebSockets the parameter resume of the URL does the
// same.
const ResumeHeader = "Durable-Resume"

// A CloseError says how a connection ended. It is the cause that the Close
// handler of a method gets. A handler that returns one from Open refuses the
// connection with that code.
//
// Callers over gRPC and Connect see an error with the Connect code that belongs
// to Code: none for 1000, the one 4000 below for 4001 to 4016, and aborted for any
// other; its durable.v1.ErrorInfo has Code itself.
type CloseError struct {
	Code   CloseCode
	Reason string // at most [MaxCloseReason] bytes
	// Clean reports that the peer was told, or told itself: it did not vanish.
	Clean bool
	// Local reports that the handler or the runtime closed the connection, and
	// not the peer.
	Local bool
	// Err is what went wrong, if anything did.
	Err error
}

func (e *CloseError) Error() string {
	text := fmt.Sprintf("durable: the connection was closed with code %d", int(e.Code))
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

func (e *CloseError) Unwrap() error { return e.Err }

// CheckClose returns an error unless a handler may close a connection so: with
// code 1000 or one from 3000 to 4999, and a reason of at most [MaxCloseReason]
// bytes of UTF-8.
func CheckClose(code CloseCode, reason string) error {
	if code != CloseNormal && (code < 3000 || code > 4999) {
		return fmt.Errorf("%w: the close code %d is neither 1000 nor from 3000 to 4999", ErrInvalidArgument, int(code))
	}
	if len(reason) > MaxCloseReason {
		return &LimitError{Name: "close reason bytes", Max: MaxCloseReason, Actual: int64(len(reason))}
	}
	if !utf8.ValidString(reason) {
		return fmt.Errorf("%w: the close reason is not valid UTF-8", ErrInvalidArgument)
	}
	return nil
}

// A ConnMessage is a message on its way to connections. The runtime encodes it
// once for each encoding, whatever the number of connections that get it.
type ConnMessage struct {
	Message proto.Message
	Forms   any // of the runtime: what Message was encoded to
}

// A ConnReader is the runtime's end of one connection, to read. It is used
// through [ConnectionView] and [AttachedView].
type ConnReader interface {
	ID() string
	Tags() []string
	Opened() time.Time
	LastAutoResponse() time.Time
	// Attachment returns the encoded attachment, nil where none was set. It is
	// not changed.
	Attachment() ([]byte, error)
}

// A ConnPort is the runtime's end of one connection. It is used through
// [Connection] and [Attached].
type ConnPort interface {
	ConnReader
	Send(msg *ConnMessage) error
	Close(code CloseCode, reason string) error
	SetTags(tags []string) error
	SetAttachment(msg proto.Message) error
}

// A ConnsReader has the connections of one object, by method. Generated code
// wraps it.
type ConnsReader interface {
	// Views yields the open connections of a method that have all of the tags, in
	// the order in which they were accepted.
	Views(procedure string, tags []string) iter.Seq[ConnReader]
}

// A ConnsPort has the connections of one object, by method. Generated code wraps
// it.
type ConnsPort interface {
	ConnsReader
	// Conns is Views of connections that can be written to.
	Conns(procedure string, tags []string) iter.Seq[ConnPort]
	// AutoResponse returns what was set; nil where nothing is.
	AutoResponse(procedure string) (req, res proto.Message, err error)
	SetAutoResponse(procedure string, req, res proto.Message) error
}

// A ConnectionView is one open connection, in a turn that only reads.
type ConnectionView struct{ port ConnReader }

// ID returns the id of the connection, which no other ever has. It stays the same
// when a client resumes it.
func (c ConnectionView) ID() string { return c.port.ID() }

// Tags returns the tags that Open set, each once, in the order they were given.
func (c ConnectionView) Tags() []string { return c.port.Tags() }

// Opened returns when the connection was accepted.
func (c ConnectionView) Opened() time.Time { return c.port.Opened() }

// LastAutoResponse returns when an [AutoResponse] last answered the peer; the
// zero time when none did.
func (c ConnectionView) LastAutoResponse() time.Time { return c.port.LastAutoResponse() }

// A Connection is one open connection of an object, in a turn that may write. It
// can be used while the turn lasts; then its methods return [ErrTxDone]. The
// connections of an object outlive its activations: the server holds them while
// the object is not in memory.
//
// What a turn does to connections is part of it. Messages and closes leave when
// the turn, or a commit point in it, has committed and everything the object
// wrote is durable; in the order in which they were sent; and not at all when the
// turn is rolled back. A message that was sent in a turn that committed reaches
// the peer, or the peer is disconnected: none is left out.
type Connection[Res any] struct {
	ConnectionView
	port ConnPort
}

// Send sends res, which it copies, to the peer. It does not wait for the peer:
// messages wait in a buffer. It returns a [LimitError] when what this turn sends
// does not fit into it, see [Limits].MaxConnBuffer, and [ErrConnClosed] when the
// connection is closed; also when it closes it, with code 1013, because what was
// sent before still waits for a peer that reads too slowly.
func (c Connection[Res]) Send(res *Res) error {
	return c.port.Send(&ConnMessage{Message: asMessage(res)})
}

func (c Connection[Res]) sendMessage(msg *ConnMessage) error { return c.port.Send(msg) }

// Close closes the connection, after the messages that were sent before. Then the
// Close handler runs, with these as its cause. See [CheckClose] for code and
// reason. It returns [ErrConnClosed] when the connection is closed already.
func (c Connection[Res]) Close(code CloseCode, reason string) error {
	return c.port.Close(code, reason)
}

// SetTags sets the tags by which the connection can be found, in place of those
// set before. It is for Open: later it returns [ErrInvalidArgument]. Equal tags
// count once. It returns a [LimitError] for more than [MaxConnTags], and for one
// longer than [MaxConnTagLen].
func (c Connection[Res]) SetTags(tags ...string) error { return c.port.SetTags(tags) }

// An AttachedView is the part of a connection that reads its attachment.
type AttachedView[A any] struct{ port ConnReader }

// Attachment returns the last attachment that was set, nil when none was. Changes
// of it have no effect until it is set again.
func (a AttachedView[A]) Attachment() (*A, error) {
	data, err := a.port.Attachment()
	if err != nil || data == nil {
		return nil, err
	}
	attachment := new(A)
	if err := proto.Unmarshal(data, asMessage(attachment)); err != nil {
		return nil, fmt.Errorf("%w: the attachment of a connection: %w", ErrMalformedValue, err)
	}
	return attachment, nil
}

// Attached is the part of a connection that has an attachment: a message that the
// object keeps with the connection, for as long as that is open, whether the
// object is in memory or not.
type Attached[A any] struct {
	AttachedView[A]
	port ConnPort
}

// SetAttachment sets the attachment, which it copies, in place of the one before.
// It is committed, or rolled back, with what the turn wrote. It returns a
// [LimitError] for one over [Limits].MaxAttachmentBytes, encoded.
func (a Attached[A]) SetAttachment(attachment *A) error {
	return a.port.SetAttachment(asMessage(attachment))
}

// Conns are connections of one method of an object: range over them.
type Conns[C connSender, Res any] func(yield func(C) bool)

type connSender interface {
	ID() string
	sendMessage(msg *ConnMessage) error
}

// Send sends res to each of the connections, and encodes it once. Those that are
// closed, or get closed because their peers read too slowly, are left out. It
// returns the first other error.
func (c Conns[C, Res]) Send(res *Res) error {
	msg := &ConnMessage{Message: asMessage(res)}
	for conn := range c {
		if err := conn.sendMessage(msg); err != nil && !errors.Is(err, ErrConnClosed) {
			return err
		}
	}
	return nil
}

// Except returns the connections without one of them.
func (c Conns[C, Res]) Except(conn C) Conns[C, Res] {
	return func(yield func(C) bool) {
		for other := range c {
			if other.ID() != conn.ID() && !yield(other) {
				return
			}
		}
	}
}

// ConnViews are connections of one method of an object, in a turn that only
// reads: range over them.
type ConnViews[C any] func(yield func(C) bool)

// ConnsOf returns the connections of a method. Generated code calls it.
func ConnsOf[C interface {
	~struct{ Connection[Res] }
	connSender
}, Res any](port ConnsPort, procedure string, tags []string) Conns[C, Res] {
	return func(yield func(C) bool) {
		for conn := range port.Conns(procedure, tags) {
			if !yield(plainConn[C, Res](conn)) {
				return
			}
		}
	}
}

// AttachedConnsOf is [ConnsOf] for a method with an attachment.
func AttachedConnsOf[C interface {
	~struct {
		Connection[Res]
		Attached[A]
	}
	connSender
}, Res, A any](port ConnsPort, procedure string, tags []string) Conns[C, Res] {
	return func(yield func(C) bool) {
		for conn := range port.Conns(procedure, tags) {
			if !yield(attachedConn[C, Res, A](conn)) {
				return
			}
		}
	}
}

// ConnViewsOf is [ConnsOf] for a turn that only reads.
func ConnViewsOf[C ~struct{ ConnectionView }](port ConnsReader, procedure string, tags []string) ConnViews[C] {
	return func(yield func(C) bool) {
		for conn := range port.Views(procedure, tags) {
			if !yield(C(struct{ ConnectionView }{ConnectionView{conn}})) {
				return
			}
		}
	}
}

// AttachedConnViewsOf is [ConnViewsOf] for a method with an attachment.
func AttachedConnViewsOf[C ~struct {
	ConnectionView
	AttachedView[A]
}, A any](port ConnsReader, procedure string, tags []string) ConnViews[C] {
	return func(yield func(C) bool) {
		for conn := range port.Views(procedure, tags) {
			if !yield(C(struct {
				ConnectionView
				AttachedView[A]
			}{ConnectionView{conn}, AttachedView[A]{conn}})) {
				return
			}
		}
	}
}

func connection[Res any](port ConnPort) Connection[Res] {
	return Connection[Res]{ConnectionView{port}, port}
}

func plainConn[C ~struct{ Connection[Res] }, Res any](port ConnPort) C {
	return C(struct{ Connection[Res] }{connection[Res](port)})
}

func attachedConn[C ~struct {
	Connection[Res]
	Attached[A]
}, Res, A any](port ConnPort) C {
	return C(struct {
		Connection[Res]
		Attached[A]
	}{connection[Res](port), Attached[A]{AttachedView[A]{port}, port}})
}

// An AutoResponse answers an exact message of any connection of a method, without
// a turn and without the object: for heartbeats of applications. It lasts as long
// as the object is in memory or has connections, so a constructor sets it. What a
// turn sets is in force when the turn has committed.
//
// The answer does not wait for the output gate, but keeps its place behind
// messages that do.
type AutoResponse[Req, Res any] struct {
	port      ConnsPort
	procedure string
}

// NewAutoResponse returns that of a method. Generated code calls it.
func NewAutoResponse[Req, Res any](port ConnsPort, procedure string) AutoResponse[Req, Res] {
	return AutoResponse[Req, Res]{port, procedure}
}

// Set answers messages equal to req with res, in place of what was set before. It
// returns a [LimitError] when one is over [MaxAutoResponse], and
// [ErrInvalidArgument] for a method whose connections can be resumed, since its
// clients count messages.
func (a AutoResponse[Req, Res]) Set(req *Req, res *Res) error {
	return a.port.SetAutoResponse(a.procedure, asMessage(req), asMessage(res))
}

// Get returns copies of what is set; nil where nothing is.
func (a AutoResponse[Req, Res]) Get() (req *Req, res *Res, err error) {
	preq, pres, err := a.port.AutoResponse(a.procedure)
	if err != nil || preq == nil {
		return nil, nil, err
	}
	return any(preq).(*Req), any(pres).(*Res), nil
}

// Delete ends it. It is no error when nothing is set.
func (a AutoResponse[Req, Res]) Delete() error {
	return a.port.SetAutoResponse(a.procedure, nil, nil)
}
