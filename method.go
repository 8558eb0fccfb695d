package durable

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// A Method describes one method of an object type to a [Registrar]. Generated
// code makes it with [Unary], [UnaryView], [ServerStream] and their kin.
type Method struct {
	Procedure    string // "/package.Service/Method"
	ReadOnly     bool   // NO_SIDE_EFFECTS: gets a view
	ClientStream bool
	ServerStream bool

	// NewRequest and NewResponse return empty messages.
	NewRequest  func() proto.Message
	NewResponse func() proto.Message

	// One of these runs the method on an activation.

	Unary     func(ctx context.Context, handler any, tx Tx, req proto.Message) (proto.Message, error)
	UnaryView func(ctx context.Context, handler any, view View, req proto.Message) (proto.Message, error)
	// Streaming gets req where only the server streams, and returns a response
	// where only the client does.
	Streaming func(ctx context.Context, handler any, port StreamPort, req proto.Message) (proto.Message, error)
	// Connection is for hibernatable methods, whose streams are connections.
	Connection *ConnectionMethod

	// The registrar is given these from the schema.

	Desc     protoreflect.MethodDescriptor
	KeyField protoreflect.FieldDescriptor // nil: the request has no key field
	KeyKind  durablev1.KeyKind
	// IdempotencyField is the field that holds the idempotency key; nil: the
	// request has none.
	IdempotencyField protoreflect.FieldDescriptor
}

// A ConnectionMethod is the part of a hibernatable [Method] that is served event
// by event, each in a turn.
type ConnectionMethod struct {
	// Open gets req where only the server streams.
	Open func(ctx context.Context, handler any, tx Tx, conn ConnPort, req proto.Message) error
	// Message is nil where only the server streams.
	Message func(ctx context.Context, handler any, tx Tx, conn ConnPort, req proto.Message) error
	Close   func(ctx context.Context, handler any, tx Tx, conn ConnPort, cause error) error

	// Resume is given to the registrar from the schema; nil where connections
	// cannot be resumed.
	Resume *ResumeLimits
}

// ResumeLimits bound what is kept for clients that may come back.
type ResumeLimits struct {
	MaxMessages int           // of each connection
	MaxBytes    int           // of these messages
	Window      time.Duration // how long a client may be away
}

func (m Method) addTo(t *ObjectType) { t.Methods = append(t.Methods, m) }

// Message is satisfied by a pointer to a message struct.
type Message[M any] interface {
	*M
	proto.Message
}

// Unary describes a method with one request and one response that may write.
func Unary[H any, T ~struct{ Tx }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string, fn func(H, context.Context, T, PReq) (PRes, error),
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.Unary = func(ctx context.Context, handler any, tx Tx, req proto.Message) (proto.Message, error) {
		return response[Res, PRes](fn(handler.(H), ctx, T(struct{ Tx }{tx}), req.(PReq)))
	}
	return m
}

// UnaryView describes a method with one request and one response that only
// reads.
func UnaryView[H any, V ~struct{ View }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string, fn func(H, context.Context, V, PReq) (PRes, error),
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ReadOnly = true
	m.UnaryView = func(ctx context.Context, handler any, view View, req proto.Message) (proto.Message, error) {
		return response[Res, PRes](fn(handler.(H), ctx, V(struct{ View }{view}), req.(PReq)))
	}
	return m
}

// ServerStream describes a method with one request and a stream of responses.
func ServerStream[H any, S ~struct {
	Turns[T, V]
	Sender[Res]
}, T ~struct{ Tx }, V ~struct{ View }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string, fn func(H, context.Context, S, PReq) error,
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ServerStream = true
	m.Streaming = func(ctx context.Context, handler any, port StreamPort, req proto.Message) (proto.Message, error) {
		s := struct {
			Turns[T, V]
			Sender[Res]
		}{Turns[T, V]{port}, Sender[Res]{port}}
		return nil, fn(handler.(H), ctx, S(s), req.(PReq))
	}
	return m
}

// ServerStreamView describes a method with one request and a stream of
// responses that only reads.
func ServerStreamView[H any, S ~struct {
	Views[V]
	Sender[Res]
}, V ~struct{ View }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string, fn func(H, context.Context, S, PReq) error,
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ServerStream, m.ReadOnly = true, true
	m.Streaming = func(ctx context.Context, handler any, port StreamPort, req proto.Message) (proto.Message, error) {
		s := struct {
			Views[V]
			Sender[Res]
		}{Views[V]{port}, Sender[Res]{port}}
		return nil, fn(handler.(H), ctx, S(s), req.(PReq))
	}
	return m
}

// ClientStream describes a method with a stream of requests and one response.
func ClientStream[H any, S ~struct {
	Turns[T, V]
	Receiver[Req]
}, T ~struct{ Tx }, V ~struct{ View }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string, fn func(H, context.Context, S) (PRes, error),
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ClientStream = true
	m.Streaming = func(ctx context.Context, handler any, port StreamPort, _ proto.Message) (proto.Message, error) {
		s := struct {
			Turns[T, V]
			Receiver[Req]
		}{Turns[T, V]{port}, Receiver[Req]{port}}
		return response[Res, PRes](fn(handler.(H), ctx, S(s)))
	}
	return m
}

// BidiStream describes a method with streams both ways.
func BidiStream[H any, S ~struct {
	Turns[T, V]
	Receiver[Req]
	Sender[Res]
}, T ~struct{ Tx }, V ~struct{ View }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string, fn func(H, context.Context, S) error,
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ClientStream, m.ServerStream = true, true
	m.Streaming = func(ctx context.Context, handler any, port StreamPort, _ proto.Message) (proto.Message, error) {
		s := struct {
			Turns[T, V]
			Receiver[Req]
			Sender[Res]
		}{Turns[T, V]{port}, Receiver[Req]{port}, Sender[Res]{port}}
		return nil, fn(handler.(H), ctx, S(s))
	}
	return m
}

// HibernatableServerStream describes a method whose stream of responses is a
// connection.
func HibernatableServerStream[H any, T ~struct{ Tx }, C ~struct{ Connection[Res] }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string,
	open func(H, context.Context, T, C, PReq) error,
	closed func(H, context.Context, T, C, error) error,
) Method {
	return serverConnection[Req, Res, PReq, PRes](procedure, open, closed, plainConn[C, Res])
}

// AttachedServerStream is [HibernatableServerStream] for a method whose
// connections have attachments.
func AttachedServerStream[H any, T ~struct{ Tx }, C ~struct {
	Connection[Res]
	Attached[A]
}, Req, Res, A any, PReq Message[Req], PRes Message[Res], PA Message[A]](
	procedure string,
	open func(H, context.Context, T, C, PReq) error,
	closed func(H, context.Context, T, C, error) error,
) Method {
	return serverConnection[Req, Res, PReq, PRes](procedure, open, closed, attachedConn[C, Res, A])
}

// HibernatableBidiStream describes a method whose streams both ways are a
// connection.
func HibernatableBidiStream[H any, T ~struct{ Tx }, C ~struct{ Connection[Res] }, Req, Res any, PReq Message[Req], PRes Message[Res]](
	procedure string,
	open func(H, context.Context, T, C) error,
	message func(H, context.Context, T, C, PReq) error,
	closed func(H, context.Context, T, C, error) error,
) Method {
	return bidiConnection[Req, Res, PReq, PRes](procedure, open, message, closed, plainConn[C, Res])
}

// AttachedBidiStream is [HibernatableBidiStream] for a method whose connections
// have attachments.
func AttachedBidiStream[H any, T ~struct{ Tx }, C ~struct {
	Connection[Res]
	Attached[A]
}, Req, Res, A any, PReq Message[Req], PRes Message[Res], PA Message[A]](
	procedure string,
	open func(H, context.Context, T, C) error,
	message func(H, context.Context, T, C, PReq) error,
	closed func(H, context.Context, T, C, error) error,
) Method {
	return bidiConnection[Req, Res, PReq, PRes](procedure, open, message, closed, attachedConn[C, Res, A])
}

func serverConnection[Req, Res any, PReq Message[Req], PRes Message[Res], H any, T ~struct{ Tx }, C any](
	procedure string,
	open func(H, context.Context, T, C, PReq) error,
	closed func(H, context.Context, T, C, error) error,
	conn func(ConnPort) C,
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ServerStream = true
	m.Connection = &ConnectionMethod{
		Open: func(ctx context.Context, handler any, tx Tx, port ConnPort, req proto.Message) error {
			return open(handler.(H), ctx, T(struct{ Tx }{tx}), conn(port), req.(PReq))
		},
		Close: closeConn(closed, conn),
	}
	return m
}

func bidiConnection[Req, Res any, PReq Message[Req], PRes Message[Res], H any, T ~struct{ Tx }, C any](
	procedure string,
	open func(H, context.Context, T, C) error,
	message func(H, context.Context, T, C, PReq) error,
	closed func(H, context.Context, T, C, error) error,
	conn func(ConnPort) C,
) Method {
	m := method[Req, Res, PReq, PRes](procedure)
	m.ClientStream, m.ServerStream = true, true
	m.Connection = &ConnectionMethod{
		Open: func(ctx context.Context, handler any, tx Tx, port ConnPort, _ proto.Message) error {
			return open(handler.(H), ctx, T(struct{ Tx }{tx}), conn(port))
		},
		Message: func(ctx context.Context, handler any, tx Tx, port ConnPort, req proto.Message) error {
			return message(handler.(H), ctx, T(struct{ Tx }{tx}), conn(port), req.(PReq))
		},
		Close: closeConn(closed, conn),
	}
	return m
}

func closeConn[H any, T ~struct{ Tx }, C any](
	closed func(H, context.Context, T, C, error) error, conn func(ConnPort) C,
) func(context.Context, any, Tx, ConnPort, error) error {
	return func(ctx context.Context, handler any, tx Tx, port ConnPort, cause error) error {
		return closed(handler.(H), ctx, T(struct{ Tx }{tx}), conn(port), cause)
	}
}

func method[Req, Res any, PReq Message[Req], PRes Message[Res]](procedure string) Method {
	return Method{
		Procedure:   procedure,
		NewRequest:  func() proto.Message { return PReq(new(Req)) },
		NewResponse: func() proto.Message { return PRes(new(Res)) },
	}
}

// response turns a typed result into an untyped one, without letting a nil
// pointer through as a message.
func response[Res any, PRes Message[Res]](res PRes, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	if res == nil {
		return nil, ErrNoResponse
	}
	return res, nil
}
