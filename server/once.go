package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

// headerReplayed tells that a reply is that to an earlier call.
const headerReplayed = "Durable-Replayed"

// maxIdempotencyKeyBytes is how long an idempotency key may be.
const maxIdempotencyKeyBytes = 255

// An idempotencyKeyError reports an idempotency key that cannot be used.
type idempotencyKeyError struct {
	problem string
	bytes   int // of a key that is too long, otherwise 0
}

func (e *idempotencyKeyError) Error() string { return e.problem }

// once returns what makes a unary call take effect once, nil when it has no
// idempotency key: header holds the values of that header. The request has its
// object key by now, and gets the idempotency key where it has a field for it.
// res is what the host fills.
func (r *route) once(ctx context.Context, header []string, call *durable.CallInfo, id durable.ID, req, res proto.Message) (*actor.Once, error) {
	field := r.method.IdempotencyField
	if len(header) == 0 && field == nil || r.method.ReadOnly {
		return nil, nil
	}
	key, err := idempotencyKey(header, field, req)
	if err != nil || key == "" {
		return nil, err
	}
	if field != nil {
		req.ProtoReflect().Set(field, protoreflect.ValueOfString(key))
	}
	digest, err := r.digest(req)
	if err != nil {
		return nil, err
	}
	o := &outcome{ctx: ctx, route: r, id: id, call: call, res: res}
	return &actor.Once{Key: key, Request: digest, Encode: o.encode, Replay: o.replay}, nil
}

// keyless returns an error when a call that cannot have an idempotency key has
// one.
func (r *route) keyless(header []string, req proto.Message) error {
	field := r.method.IdempotencyField
	if len(header) > 0 || field != nil && req != nil && req.ProtoReflect().Get(field).String() != "" {
		return &idempotencyKeyError{problem: "a stream cannot have an idempotency key"}
	}
	return nil
}

// idempotencyKey returns the key of a call, empty when it has none. Every value
// must be the same.
func idempotencyKey(header []string, field protoreflect.FieldDescriptor, req proto.Message) (string, error) {
	key := ""
	if field != nil {
		if key = req.ProtoReflect().Get(field).String(); key != "" {
			if err := checkIdempotencyKey("field "+string(field.Name()), key); err != nil {
				return "", err
			}
		}
	}
	for i, value := range header {
		if err := checkIdempotencyKey("header "+durable.IdempotencyKeyHeader, value); err != nil {
			return "", err
		}
		switch {
		case key == "":
			key = value
		case key == value:
		case i == 0:
			return "", &idempotencyKeyError{problem: fmt.Sprintf("the field %s and the header %s have different idempotency keys", field.Name(), durable.IdempotencyKeyHeader)}
		default:
			return "", &idempotencyKeyError{problem: "the header " + durable.IdempotencyKeyHeader + " is there twice, with different values"}
		}
	}
	return key, nil
}

func checkIdempotencyKey(where, key string) error {
	e := &idempotencyKeyError{}
	switch {
	case key == "":
		e.problem = "is empty"
	case len(key) > maxIdempotencyKeyBytes:
		e.bytes = len(key)
		e.problem = fmt.Sprintf("has %d bytes", len(key))
	case strings.IndexFunc(key, func(c rune) bool { return c < 0x21 || c > 0x7e }) >= 0:
		e.problem = "has something else than visible ASCII"
	default:
		return nil
	}
	e.problem = fmt.Sprintf("the idempotency key in the %s %s: it must be 1 to %d bytes of visible ASCII", where, e.problem, maxIdempotencyKeyBytes)
	return e
}

// digest tells what a call asks for from what other calls with its key do.
func (r *route) digest(req proto.Message) ([sha256.Size]byte, error) {
	b := append([]byte(r.method.Procedure), 0) // a procedure has no such byte
	b, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.MarshalAppend(b, req)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("%w: the request cannot be encoded: %w", durable.ErrInvalidArgument, err)
	}
	return sha256.Sum256(b), nil
}

// An outcome encodes what one call ends with, or takes what an earlier one ended
// with in its place.
type outcome struct {
	ctx   context.Context // of the call
	route *route
	id    durable.ID
	call  *durable.CallInfo
	res   proto.Message
}

// encode implements Encode of [actor.Once].
func (o *outcome) encode(err error) (reply []byte, keep bool) {
	header, trailer := o.call.Response()
	out := &recordv1.Outcome{Headers: encodeHeaders(header), Trailers: encodeHeaders(trailer)}
	keep = true
	if err == nil {
		res, merr := proto.MarshalOptions{AllowPartial: true}.Marshal(o.res)
		if merr == nil {
			out.Result = &recordv1.Outcome_Response{Response: res}
		} else { // over the network, the first answer fails there too
			err = connect.NewError(connect.CodeInternal, "the response cannot be encoded")
		}
	} else {
		keep = o.isOutcome(err)
	}
	if err != nil {
		out.Result = &recordv1.Outcome_Error{Error: encodeError(o.answer(err))}
	}
	reply, merr := proto.Marshal(out)
	if merr != nil { // nothing in it can be malformed
		panic(fmt.Sprintf("durable: encode the outcome of a call: %v", merr))
	}
	return reply, keep
}

// answer returns err as the caller sees it. What is stored has had effects, were
// it only that it is stored: nobody may take it for a call that never began.
func (o *outcome) answer(err error) *connect.Error { return answer(err, o.route, o.id, true) }

// isOutcome reports whether err is what the handler has to say of the call, so
// that it would say something else if it ran again. What the runtime ends a call
// with is not, nor is what asks to call again.
func (o *outcome) isOutcome(err error) bool {
	if _, kept := durable.Kept(err); kept { // and what was written
		return true
	}
	if o.ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var coded *connect.Error
	if errors.As(err, &coded) && coded.IsRemote() { // of a call to another server
		return fromHandler(coded)
	}
	return fromHandler(o.answer(err))
}

// fromHandler reports whether err is what a handler made of a call, and not the
// runtime.
func fromHandler(err *connect.Error) bool {
	switch err.Code() {
	case connect.CodeUnavailable, connect.CodeCanceled, connect.CodeDeadlineExceeded:
		return false
	}
	info := infoOf(err)
	switch {
	case info == nil:
		return true
	case info.GetRetryable(), info.GetOverloaded(), info.GetObjectReset(), info.GetOutcomeUnknown():
		return false
	case info.GetRemote():
		return true
	case info.GetReason() == durablev1.ErrorReason_ERROR_REASON_SQL:
		switch err.Code() { // what the data say, not what the engine could not do
		case connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeFailedPrecondition:
			return true
		}
	}
	return false
}

// replay implements Replay of [actor.Once].
func (o *outcome) replay(reply []byte) error {
	out := new(recordv1.Outcome)
	if err := proto.Unmarshal(reply, out); err != nil {
		return fmt.Errorf("%w: the outcome of a call: %w", storage.ErrCorrupt, err)
	}
	var failed error
	switch result := out.GetResult().(type) {
	case *recordv1.Outcome_Response:
		if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(result.Response, o.res); err != nil {
			return fmt.Errorf("%w: the response of a call: %w", storage.ErrCorrupt, err)
		}
	case *recordv1.Outcome_Error:
		failed = &innerError{decodeError(result.Error)}
	default:
		return fmt.Errorf("%w: the outcome of a call is missing", storage.ErrCorrupt)
	}
	decodeHeaders(out.GetHeaders(), o.call.ResponseHeader)
	decodeHeaders(out.GetTrailers(), o.call.ResponseTrailer)
	o.call.ResponseHeader().Set(headerReplayed, "true")
	return failed
}

func encodeError(err *connect.Error) *recordv1.OutcomeError {
	out := &recordv1.OutcomeError{Code: uint32(err.Code()), Message: []byte(err.Message())}
	for _, d := range err.Details() {
		out.Details = append(out.Details, &recordv1.OutcomeDetail{Type: strings.ToValidUTF8(d.Type, "\uFFFD"), Value: d.Value})
	}
	return out
}

func decodeError(stored *recordv1.OutcomeError) *connect.Error {
	err := connect.NewError(connect.Code(stored.GetCode()), string(stored.GetMessage()))
	for _, d := range stored.GetDetails() {
		err = err.WithDetail(&connect.ErrorDetail{Type: d.GetType(), Value: d.GetValue()})
	}
	return err
}

func encodeHeaders(header http.Header) []*recordv1.OutcomeHeader {
	var out []*recordv1.OutcomeHeader
	for name, values := range header {
		h := &recordv1.OutcomeHeader{Name: strings.ToValidUTF8(name, "\uFFFD")}
		for _, value := range values {
			h.Values = append(h.Values, []byte(value))
		}
		out = append(out, h)
	}
	return out
}

func decodeHeaders(stored []*recordv1.OutcomeHeader, header func() http.Header) {
	for _, h := range stored {
		for _, value := range h.GetValues() {
			header()[h.GetName()] = append(header()[h.GetName()], string(value))
		}
	}
}

// keyless refuses streams that have an idempotency key.
func keyless(r *route, next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		info, _ := connect.CallInfoForServerContext(ctx)
		if err := r.keyless(info.RequestHeader().Values(durable.IdempotencyKeyHeader), nil); err != nil {
			return wireError(err, r, durable.ID{})
		}
		if r.method.IdempotencyField != nil {
			stream = keylessStream{stream, r}
		}
		return next(ctx, spec, stream)
	}
}

// A keylessStream refuses requests that have an idempotency key in their field.
type keylessStream struct {
	connect.ServerStream
	r *route
}

func (s keylessStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return err
	}
	if err := s.r.keyless(nil, msg.(proto.Message)); err != nil {
		return callError(err, s.r, durable.ID{})
	}
	return nil
}
