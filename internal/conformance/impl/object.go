//go:build conformance

package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	durable "github.com/durable-go/durable"
	conformancev1 "github.com/durable-go/durable/internal/conformance/gen/conformancev1"
	"github.com/durable-go/durable/internal/conformance/gen/conformancev1/conformancev1durable"
)

// conformance is the object under test: it answers as each request says.
type conformance struct {
	conformancev1durable.UnimplementedConformanceHandler
}

// Unary answers with the headers, data, error and trailers that are asked for.
func (conformance) Unary(ctx context.Context, _ conformancev1durable.ConformanceTx, req *conformancev1.UnaryRequest) (*conformancev1.UnaryResponse, error) {
	payload, err := answer(ctx, req.GetResponseDefinition(), req)
	return &conformancev1.UnaryResponse{Payload: payload}, err
}

// IdempotentUnary is Unary without side effects.
func (conformance) IdempotentUnary(ctx context.Context, _ conformancev1durable.ConformanceView, req *conformancev1.IdempotentUnaryRequest) (*conformancev1.IdempotentUnaryResponse, error) {
	payload, err := answer(ctx, req.GetResponseDefinition(), req)
	return &conformancev1.IdempotentUnaryResponse{Payload: payload}, err
}

// ClientStream answers as the first request says, after the last.
func (conformance) ClientStream(ctx context.Context, stream conformancev1durable.ConformanceClientStreamStream) (*conformancev1.ClientStreamResponse, error) {
	var (
		def  *conformancev1.UnaryResponseDefinition
		reqs []proto.Message
	)
	for req, err := range stream.All() {
		if err != nil {
			return nil, err
		}
		if len(reqs) == 0 {
			def = req.GetResponseDefinition()
		}
		reqs = append(reqs, req)
	}
	payload, err := answer(ctx, def, reqs...)
	return &conformancev1.ClientStreamResponse{Payload: payload}, err
}

// ServerStream sends what the request says.
func (conformance) ServerStream(ctx context.Context, stream conformancev1durable.ConformanceServerStreamStream, req *conformancev1.ServerStreamRequest) error {
	r := responder{def: req.GetResponseDefinition(), send: func(p *conformancev1.ConformancePayload) error {
		return stream.Send(&conformancev1.ServerStreamResponse{Payload: p})
	}}
	r.begin(ctx)
	return r.rest(ctx, []proto.Message{req})
}

// BidiStream sends what the first request says, one response a request or all
// of them after the last.
func (conformance) BidiStream(ctx context.Context, stream conformancev1durable.ConformanceBidiStreamStream) error {
	r := responder{send: func(p *conformancev1.ConformancePayload) error {
		return stream.Send(&conformancev1.BidiStreamResponse{Payload: p})
	}}
	var (
		reqs   []proto.Message
		duplex bool
	)
	for first := true; ; first = false {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		reqs = append(reqs, req)
		if first {
			r.def, duplex = req.GetResponseDefinition(), req.GetFullDuplex()
			r.begin(ctx)
		}
		if duplex {
			if r.done() {
				break
			}
			if err := r.next(ctx, reqs); err != nil {
				return err
			}
			reqs = nil
		}
	}
	return r.rest(ctx, reqs)
}

// A responder sends the responses of a stream.
type responder struct {
	def  *conformancev1.StreamResponseDefinition
	sent int
	send func(*conformancev1.ConformancePayload) error
}

func (r *responder) begin(ctx context.Context) {
	info := durable.CallInfoFromContext(ctx)
	add(info.ResponseHeader(), r.def.GetResponseHeaders())
	add(info.ResponseTrailer(), r.def.GetResponseTrailers())
}

func (r *responder) done() bool { return r.sent >= len(r.def.GetResponseData()) }

// next sends one response. The first tells all about the call, later ones only
// the requests since.
func (r *responder) next(ctx context.Context, reqs []proto.Message) error {
	p := &conformancev1.ConformancePayload{Data: r.def.GetResponseData()[r.sent]}
	switch {
	case r.sent == 0:
		p.RequestInfo = requestInfo(ctx, reqs)
	case len(reqs) > 0:
		p.RequestInfo = &conformancev1.ConformancePayload_RequestInfo{Requests: anys(reqs)}
	}
	r.sent++
	time.Sleep(time.Duration(r.def.GetResponseDelayMs()) * time.Millisecond)
	return r.send(p)
}

// rest sends what is left, and the error.
func (r *responder) rest(ctx context.Context, reqs []proto.Message) error {
	for !r.done() {
		if err := r.next(ctx, reqs); err != nil {
			return err
		}
		reqs = nil
	}
	if def := r.def.GetError(); def != nil {
		if r.sent == 0 {
			return asError(def, requestInfo(ctx, reqs))
		}
		return asError(def, nil)
	}
	return nil
}

func answer(ctx context.Context, def *conformancev1.UnaryResponseDefinition, reqs ...proto.Message) (*conformancev1.ConformancePayload, error) {
	info := durable.CallInfoFromContext(ctx)
	about := requestInfo(ctx, reqs)
	add(info.ResponseHeader(), def.GetResponseHeaders())
	add(info.ResponseTrailer(), def.GetResponseTrailers())
	time.Sleep(time.Duration(def.GetResponseDelayMs()) * time.Millisecond)
	if def.GetError() != nil {
		return nil, asError(def.GetError(), about)
	}
	return &conformancev1.ConformancePayload{Data: def.GetResponseData(), RequestInfo: about}, nil
}

func asError(def *conformancev1.Error, about *conformancev1.ConformancePayload_RequestInfo) error {
	err := connect.NewError(connect.Code(def.GetCode()), def.GetMessage())
	for _, d := range def.GetDetails() {
		err = err.WithDetail(&connect.ErrorDetail{Type: string(d.MessageName()), Value: d.GetValue()})
	}
	if about != nil {
		d := anys([]proto.Message{about})[0]
		err = err.WithDetail(&connect.ErrorDetail{Type: string(d.MessageName()), Value: d.GetValue()})
	}
	return err
}

// requestInfo tells what the object saw of a call.
func requestInfo(ctx context.Context, reqs []proto.Message) *conformancev1.ConformancePayload_RequestInfo {
	info := &conformancev1.ConformancePayload_RequestInfo{
		RequestHeaders: headers(durable.CallInfoFromContext(ctx).RequestHeader()),
		Requests:       anys(reqs),
	}
	if deadline, ok := ctx.Deadline(); ok {
		info.TimeoutMs = proto.Int64(time.Until(deadline).Milliseconds())
	}
	if h, ok := connecthttp.ServerInfoForContext(ctx); ok && h.HTTPMethod() == http.MethodGet {
		info.ConnectGetInfo = &conformancev1.ConformancePayload_ConnectGetInfo{QueryParams: headers(http.Header(h.HTTPGetQueryParams()))}
	}
	return info
}

func anys(msgs []proto.Message) []*anypb.Any {
	var out []*anypb.Any
	for _, m := range msgs {
		a, err := anypb.New(m)
		if err != nil {
			panic(err) // a message that was received can be sent
		}
		out = append(out, a)
	}
	return out
}

func headers(h http.Header) []*conformancev1.Header {
	var out []*conformancev1.Header
	for name, values := range h {
		out = append(out, &conformancev1.Header{Name: name, Value: values})
	}
	return out
}

func add(h http.Header, from []*conformancev1.Header) {
	for _, header := range from {
		for _, value := range header.GetValue() {
			h.Add(header.GetName(), value)
		}
	}
}
