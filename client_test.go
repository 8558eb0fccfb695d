package durable_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

// A scripted port answers as told.
type scripted struct {
	durable.Conn
	send, closeSend error
	receives        []error // nil: a message
	closed          bool
}

func (p *scripted) OpenStream(context.Context, *durable.Call) (durable.ClientStreamPort, error) {
	return p, nil
}
func (p *scripted) Send(proto.Message) error { return p.send }
func (p *scripted) CloseSend() error         { return p.closeSend }

func (p *scripted) Receive(msg proto.Message) error {
	if len(p.receives) == 0 {
		return errors.New("received too often")
	}
	err := p.receives[0]
	p.receives = p.receives[1:]
	if err == nil {
		msg.(*wrapperspb.StringValue).Value = "x"
	}
	return err
}

func (p *scripted) Close() error {
	p.closed = true
	return nil
}

var errServer = errors.New("the server's error")

func TestServerStreamThatTheServerEndsAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		port *scripted
		want string
	}{
		"at Send":             {&scripted{send: io.EOF, receives: []error{errServer}}, "the server's error"},
		"at CloseSend":        {&scripted{closeSend: io.EOF, receives: []error{errServer}}, "the server's error"},
		"without saying why":  {&scripted{send: io.EOF, receives: []error{io.EOF}}, "the server ended the call"},
		"another send error":  {&scripted{send: errors.New("broken pipe")}, "broken pipe"},
		"with a message even": {&scripted{send: io.EOF, receives: []error{nil}}, "the server ended the call"},
	} {
		t.Run(name, func(t *testing.T) {
			ref := durable.RefByName(c.port, "a", "b")
			_, err := durable.CallServerStream[wrapperspb.StringValue](t.Context(), ref, durable.MethodSpec{Procedure: "/a.B/C"}, &wrapperspb.StringValue{}, nil)
			if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if !c.port.closed {
				t.Error("the stream is still open")
			}
		})
	}
}

func TestCloseAndReceive(t *testing.T) {
	for name, c := range map[string]struct {
		port *scripted
		want string // empty: the response
	}{
		"a response":                   {&scripted{receives: []error{nil, io.EOF}}, ""},
		"a response, then an error":    {&scripted{receives: []error{nil, errServer}}, "the server's error"},
		"two responses":                {&scripted{receives: []error{nil, nil}}, "more than one response"},
		"none":                         {&scripted{receives: []error{io.EOF}}, "without a response"},
		"an error":                     {&scripted{receives: []error{errServer}}, "the server's error"},
		"an error, known at CloseSend": {&scripted{closeSend: io.EOF, receives: []error{errServer}}, "the server's error"},
	} {
		t.Run(name, func(t *testing.T) {
			ref := durable.RefByName(c.port, "a", "b")
			stream, err := durable.CallClientStream[wrapperspb.StringValue, wrapperspb.StringValue](t.Context(), ref, durable.MethodSpec{Procedure: "/a.B/C"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := stream.CloseAndReceive()
			if c.want == "" {
				if err != nil || res.GetValue() != "x" {
					t.Errorf("response %v, error %v", res, err)
				}
			} else if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if !c.port.closed {
				t.Error("the stream is still open")
			}
		})
	}
}
