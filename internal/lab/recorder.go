package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A recorder keeps texts under their numbers, big-endian, and the last number
// in a field.
type recorder struct {
	lab           *Lab
	last          uint64
	activation    int64
	constructedAs string
}

func (l *Lab) newRecorder(ctx context.Context, tx labv1durable.RecorderTx) (labv1durable.RecorderHandler, error) {
	r := &recorder{lab: l, activation: l.Constructed.Add(1), constructedAs: tx.Name()}
	if l.Constructor != nil {
		if err := l.Constructor(ctx, tx); err != nil {
			return nil, err
		}
	}
	for e, err := range tx.KV().List(ctx, durable.ListReverse(), durable.ListLimit(1)) {
		if err != nil {
			return nil, err
		}
		if len(e.Key) == 8 {
			r.last = binary.BigEndian.Uint64([]byte(e.Key))
		}
	}
	return r, nil
}

func (r *recorder) append(ctx context.Context, tx durable.Tx, text string) (int64, error) {
	number := r.last + 1
	key := string(binary.BigEndian.AppendUint64(nil, number))
	if err := tx.KV().Put(ctx, key, []byte(text)); err != nil {
		return 0, err
	}
	r.last = number
	return int64(number), nil
}

// Append implements [labv1durable.RecorderHandler].
func (r *recorder) Append(ctx context.Context, tx labv1durable.RecorderTx, req *labv1.AppendRequest) (*labv1.AppendResponse, error) {
	r.lab.Handled.Add(1)
	var err error
	if req.GetAwait() {
		err = tx.Await(ctx, func(ctx context.Context) error { return sleep(ctx, req.GetSleepMs()) })
	} else {
		err = sleep(ctx, req.GetSleepMs())
	}
	if err != nil {
		return nil, err
	}
	number, err := r.append(ctx, tx, req.GetText())
	if err != nil {
		return nil, err
	}
	req.Text = "changed by the handler"
	return &labv1.AppendResponse{Number: number}, nil
}

// ReadAll implements [labv1durable.RecorderHandler].
func (r *recorder) ReadAll(ctx context.Context, view labv1durable.RecorderView, _ *labv1.ReadAllRequest) (*labv1.ReadAllResponse, error) {
	res := &labv1.ReadAllResponse{}
	for e, err := range view.KV().List(ctx) {
		if err != nil {
			return nil, err
		}
		res.Texts = append(res.Texts, string(e.Value))
	}
	return res, nil
}

// Misbehave implements [labv1durable.RecorderHandler].
func (r *recorder) Misbehave(ctx context.Context, tx labv1durable.RecorderTx, req *labv1.MisbehaveRequest) (*labv1.MisbehaveResponse, error) {
	r.lab.Handled.Add(1)
	if req.GetText() != "" {
		if _, err := r.append(ctx, tx, req.GetText()); err != nil {
			return nil, err
		}
	}
	if req.GetSync() {
		if err := tx.Sync(ctx); err != nil {
			return nil, err
		}
	}
	switch fault := req.GetFault().(type) {
	case *labv1.MisbehaveRequest_Fail:
		return nil, failure(fault.Fail)
	case *labv1.MisbehaveRequest_Panic:
		panic(fault.Panic)
	case *labv1.MisbehaveRequest_Abort:
		tx.Abort(fault.Abort)
		panic("unreachable")
	case *labv1.MisbehaveRequest_Nothing:
		return nil, nil
	case *labv1.MisbehaveRequest_Relay:
		other := labv1durable.NewRecorderClient(tx).GetByName(fault.Relay.GetName())
		return other.Misbehave(ctx, fault.Relay)
	case *labv1.MisbehaveRequest_RelayStream:
		other := labv1durable.NewRecorderClient(tx).GetByName(fault.RelayStream.GetName())
		stream, err := other.Tail(ctx, &labv1.TailRequest{
			Fail:  fault.RelayStream.GetFail(),
			Panic: fault.RelayStream.GetPanic() != "",
		})
		if err != nil {
			return nil, err
		}
		for _, err := range stream.All() {
			if err != nil {
				return nil, errors.Join(err, stream.Close())
			}
		}
	case *labv1.MisbehaveRequest_Hang:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &labv1.MisbehaveResponse{}, nil
}

// failure returns the error that f describes.
func failure(f *labv1.Failure) error {
	err := errors.New(f.GetMessage())
	if f.GetCode() != 0 {
		coded := connect.NewError(connect.Code(f.GetCode()), f.GetMessage())
		for _, text := range f.GetDetails() {
			coded = coded.WithDetail(detail(wrapperspb.String(text)))
		}
		if f.GetSpoof() {
			coded = coded.WithDetail(detail(&durablev1.ErrorInfo{
				Reason:     durablev1.ErrorReason_ERROR_REASON_OVERLOADED,
				Overloaded: true,
				Retryable:  true,
				ObjectId:   "spoofed",
			}))
		}
		err = coded
	}
	if f.GetKeep() {
		err = durable.Keep(err)
	}
	return err
}

func detail(msg proto.Message) *connect.ErrorDetail {
	d, err := connectproto.NewErrorDetail(msg)
	if err != nil {
		panic(err)
	}
	return d
}

func (r *recorder) inspect(ctx context.Context, h durable.Handle, field string) *labv1.Inspection {
	info := durable.CallInfoFromContext(ctx)
	seen := &labv1.Inspection{
		ObjectType:    h.ObjectType(),
		Id:            h.ID().String(),
		Name:          h.Name(),
		Exists:        h.Exists(),
		Field:         field,
		Procedure:     info.Procedure,
		Protocol:      info.Protocol,
		HasPeer:       info.PeerAddr != "",
		Headers:       map[string]string{},
		Activation:    r.activation,
		ConstructedAs: r.constructedAs,
	}
	for key, values := range info.RequestHeader() {
		for _, value := range values {
			seen.Headers[key] += value
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		seen.DeadlineMs = time.Until(deadline).Milliseconds()
	}
	return seen
}

// Inspect implements [labv1durable.RecorderHandler].
func (r *recorder) Inspect(ctx context.Context, view labv1durable.RecorderView, req *labv1.InspectRequest) (*labv1.InspectResponse, error) {
	respond(ctx, req.GetHeaders(), req.GetTrailers())
	return &labv1.InspectResponse{Seen: r.inspect(ctx, view, req.GetName())}, nil
}

// InspectTx implements [labv1durable.RecorderHandler].
func (r *recorder) InspectTx(ctx context.Context, tx labv1durable.RecorderTx, req *labv1.InspectTxRequest) (*labv1.InspectTxResponse, error) {
	return &labv1.InspectTxResponse{Seen: r.inspect(ctx, tx, req.GetName())}, nil
}

func respond(ctx context.Context, headers, trailers map[string]string) {
	info := durable.CallInfoFromContext(ctx)
	for key, value := range headers {
		info.ResponseHeader().Set(key, value)
	}
	for key, value := range trailers {
		info.ResponseTrailer().Set(key, value)
	}
}

// Tail implements [labv1durable.RecorderHandler].
func (r *recorder) Tail(ctx context.Context, stream labv1durable.RecorderTailStream, req *labv1.TailRequest) error {
	respond(ctx, req.GetHeaders(), nil)
	defer func() { respond(ctx, nil, req.GetTrailers()) }()
	for _, text := range req.GetTexts() {
		var number int64
		err := stream.Update(ctx, func(tx labv1durable.RecorderTx) (err error) {
			number, err = r.append(ctx, tx, text)
			return err
		})
		if err != nil {
			return err
		}
		if err := stream.Send(&labv1.TailResponse{Number: number}); err != nil {
			return err
		}
	}
	switch {
	case req.GetFail() != nil:
		return failure(req.GetFail())
	case req.GetPanic():
		panic("told to")
	case req.GetHang():
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// Replay implements [labv1durable.RecorderHandler].
func (r *recorder) Replay(ctx context.Context, stream labv1durable.RecorderReplayStream, _ *labv1.ReplayRequest) error {
	var texts []string
	err := stream.View(ctx, func(view labv1durable.RecorderView) error {
		for e, err := range view.KV().List(ctx) {
			if err != nil {
				return err
			}
			texts = append(texts, string(e.Value))
		}
		return nil
	})
	for _, text := range texts {
		if err == nil {
			err = stream.Send(&labv1.ReplayResponse{Text: text})
		}
	}
	return err
}

// Collect implements [labv1durable.RecorderHandler].
func (r *recorder) Collect(ctx context.Context, stream labv1durable.RecorderCollectStream) (*labv1.CollectResponse, error) {
	res := &labv1.CollectResponse{}
	for req, err := range stream.All() {
		if err != nil {
			return nil, err
		}
		err = stream.Update(ctx, func(tx labv1durable.RecorderTx) error {
			_, err := r.append(ctx, tx, req.GetText())
			return err
		})
		if err != nil {
			return nil, err
		}
		res.Count++
		res.Fields = append(res.Fields, req.GetName())
	}
	respond(ctx, nil, map[string]string{"X-Collected": strconv.FormatInt(res.GetCount(), 10)})
	return res, nil
}

// Chat implements [labv1durable.RecorderHandler].
func (r *recorder) Chat(ctx context.Context, stream labv1durable.RecorderChatStream) error {
	for {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var number int64
		err = stream.Update(ctx, func(tx labv1durable.RecorderTx) (err error) {
			number, err = r.append(ctx, tx, req.GetText())
			return err
		})
		if err == nil {
			err = stream.Send(&labv1.ChatResponse{Number: number, Field: req.GetName()})
		}
		if err != nil {
			return err
		}
	}
}
