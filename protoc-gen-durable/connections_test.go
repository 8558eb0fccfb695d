package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/durable-go/durable"
	connpb "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/connections/conn"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/connections/connectionsv1"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/connections/connectionsv1/connectionsv1durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/connections/tags"
)

// club implements hibernatable methods of every kind: bidirectional and not, with
// an attachment and without.
type club struct {
	connectionsv1durable.UnimplementedRoomHandler
	log []string
}

func (c *club) logf(format string, args ...any) { c.log = append(c.log, fmt.Sprintf(format, args...)) }

func (c *club) JoinOpen(_ context.Context, tx connectionsv1durable.RoomTx, conn connectionsv1durable.RoomJoinConn) error {
	c.logf("open %s of %s", conn.ID(), tx.Name())
	return errors.Join(
		conn.SetTags("member"),
		conn.SetAttachment(&connectionsv1.JoinAttachment{User: "ann"}),
		conn.Send(&connectionsv1.JoinResponse{Text: "welcome"}),
	)
}

func (c *club) JoinMessage(
	_ context.Context, tx connectionsv1durable.RoomTx, conn connectionsv1durable.RoomJoinConn, req *connectionsv1.JoinRequest,
) error {
	attachment, err := conn.Attachment()
	c.logf("%s says %s", attachment.GetUser(), req.GetText())
	return errors.Join(err, tx.JoinConns("member").Except(conn).Send(&connectionsv1.JoinResponse{Text: req.GetText()}))
}

func (c *club) JoinClose(
	_ context.Context, tx connectionsv1durable.RoomTx, conn connectionsv1durable.RoomJoinConn, cause error,
) error {
	c.logf("close %s of %s: %v", conn.ID(), tx.Name(), cause)
	return errRan
}

func (c *club) WatchOpen(
	_ context.Context, tx connectionsv1durable.RoomTx, conn connectionsv1durable.RoomWatchConn, req *connectionsv1.WatchRequest,
) error {
	c.logf("open %s of %s for %s", conn.ID(), tx.Name(), req.GetRoom())
	return conn.Send(&tags.Event{Text: "opened"})
}

func (c *club) WatchClose(
	_ context.Context, tx connectionsv1durable.RoomTx, conn connectionsv1durable.RoomWatchConn, cause error,
) error {
	c.logf("close %s of %s: %v", conn.ID(), tx.Name(), cause)
	return errRan
}

func (c *club) EchoOpen(context.Context, connectionsv1durable.RoomTx, connectionsv1durable.RoomEchoConn) error {
	return errRan
}

func (c *club) EchoMessage(
	_ context.Context, _ connectionsv1durable.RoomTx, conn connectionsv1durable.RoomEchoConn, req *connectionsv1.JoinRequest,
) error {
	return errors.Join(conn.Send(&connectionsv1.JoinResponse{Text: req.GetText()}), conn.Close(durable.CloseNormal, "bye"))
}

func (c *club) FollowOpen(
	_ context.Context, _ connectionsv1durable.RoomTx, conn connectionsv1durable.RoomFollowConn, _ *connectionsv1.WatchRequest,
) error {
	return conn.SetAttachment(&connpb.Seat{Number: 7})
}

// registeredConnections returns what a club registers, by method.
func registeredConnections(t *testing.T) map[string]durable.Method {
	t.Helper()
	r := &registrar{}
	if err := connectionsv1durable.RegisterRoom(r, handler[connectionsv1durable.RoomTx](connectionsv1durable.RoomHandler(&club{}))); err != nil {
		t.Fatal(err)
	}
	methods := map[string]durable.Method{}
	for _, m := range r.types[0].Methods {
		methods[string(m.Desc.Name())] = m
	}
	return methods
}

// TestConnections runs the handlers of hibernatable methods through what was
// registered.
func TestConnections(t *testing.T) {
	methods := registeredConnections(t)
	ctx, h := t.Context(), &club{}
	ann, bob, eve := &connPort{id: "ann"}, &connPort{id: "bob"}, &connPort{id: "eve"}
	port := &connsPort{conns: []*connPort{ann, bob, eve}}
	handle := connTx{port: port}
	req := &connectionsv1.JoinRequest{Text: "hello"}

	join := methods["Join"].Connection
	if err := join.Open(ctx, h, handle, ann, nil); err != nil {
		t.Errorf("JoinOpen: %v", err)
	}
	if err := join.Message(ctx, h, handle, ann, req); err != nil {
		t.Errorf("JoinMessage: %v", err)
	}
	if err := join.Close(ctx, h, handle, ann, &durable.CloseError{Code: 4000}); !errors.Is(err, errRan) {
		t.Errorf("JoinClose returned %v", err)
	}
	watch := methods["Watch"].Connection
	if err := watch.Open(ctx, h, handle, bob, &connectionsv1.WatchRequest{Room: "lobby"}); err != nil {
		t.Errorf("WatchOpen: %v", err)
	}
	if err := watch.Close(ctx, h, handle, bob, &durable.CloseError{Code: 1006}); !errors.Is(err, errRan) {
		t.Errorf("WatchClose returned %v", err)
	}
	echo := methods["Echo"].Connection
	if err := echo.Open(ctx, h, handle, eve, nil); !errors.Is(err, errRan) {
		t.Errorf("EchoOpen returned %v", err)
	}
	if err := echo.Message(ctx, h, handle, eve, req); err != nil {
		t.Errorf("EchoMessage: %v", err)
	}
	if err := methods["Follow"].Connection.Open(ctx, h, handle, eve, &connectionsv1.WatchRequest{}); err != nil {
		t.Errorf("FollowOpen: %v", err)
	}

	if diff := cmp.Diff([]string{
		"open ann of news",
		"ann says hello",
		"close ann of news: durable: the connection was closed with code 4000",
		"open bob of news for lobby",
		"close bob of news: durable: the connection was closed with code 1006",
	}, h.log); diff != "" {
		t.Errorf("the handlers (-want +got)\n%s", diff)
	}
	for _, c := range []struct {
		port *connPort
		want []string
	}{
		{ann, []string{"tags [member]", "attach durabletest.connections.v1.JoinAttachment", "send welcome"}},
		{bob, []string{"send hello", "send opened"}},
		{eve, []string{"send hello", "send hello", "close 1000 bye", "attach durabletest.connections.shared.Seat"}},
	} {
		if diff := cmp.Diff(c.want, c.port.log); diff != "" {
			t.Errorf("the connection of %s (-want +got)\n%s", c.port.id, diff)
		}
	}
	if diff := cmp.Diff([]string{"conns " + connectionsv1durable.RoomJoinProcedure + " [member]"}, port.log); diff != "" {
		t.Errorf("the connections (-want +got)\n%s", diff)
	}
}

// TestConnectionHandles finds connections, and sets automatic responses, with
// typed handles.
func TestConnectionHandles(t *testing.T) {
	data, err := proto.Marshal(&connectionsv1.JoinAttachment{User: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	port := &connsPort{conns: []*connPort{{id: "one", attachment: data}, {id: "two", attachment: data}}}
	tx, view := connectionsv1durable.RoomTx{Tx: connTx{port: port}}, connectionsv1durable.RoomView{View: connView{port: port}}
	attached := func(id string, attachment *connectionsv1.JoinAttachment, err error) string {
		return fmt.Sprint(id, " ", attachment.GetUser(), " ", err)
	}

	var got []string
	for conn := range joined(tx.JoinConns("a", "b")) {
		attachment, err := conn.Attachment()
		got = append(got, attached(conn.ID(), attachment, err))
	}
	for conn := range joinedViews(view.JoinConns("c")) {
		attachment, err := conn.Attachment()
		got = append(got, attached(conn.ID(), attachment, err))
	}
	for conn := range tx.WatchConns() {
		got = append(got, conn.ID())
	}
	for conn := range view.WatchConns("d") {
		got = append(got, conn.ID())
	}
	if diff := cmp.Diff([]string{
		"one bob <nil>", "two bob <nil>", "one bob <nil>", "two bob <nil>", "one", "two", "one", "two",
	}, got); diff != "" {
		t.Errorf("the connections (-want +got)\n%s", diff)
	}

	auto := tx.EchoAutoResponse()
	if err := auto.Set(&connectionsv1.JoinRequest{Text: "ping"}, &connectionsv1.JoinResponse{Text: "pong"}); err != nil {
		t.Error(err)
	}
	if _, _, err := tx.JoinAutoResponse().Get(); err != nil {
		t.Error(err)
	}
	join, watch, echo := connectionsv1durable.RoomJoinProcedure, connectionsv1durable.RoomWatchProcedure, connectionsv1durable.RoomEchoProcedure
	if diff := cmp.Diff([]string{
		"conns " + join + " [a b]", "views " + join + " [c]", "conns " + watch + " []", "views " + watch + " [d]",
		"auto " + echo + " ping pong", "get auto " + join,
	}, port.log); diff != "" {
		t.Errorf("calls (-want +got)\n%s", diff)
	}
}

// These take the types by their generated names.
func joined(conns connectionsv1durable.RoomJoinConns) connectionsv1durable.RoomJoinConns {
	return conns
}

func joinedViews(conns connectionsv1durable.RoomJoinConnViews) connectionsv1durable.RoomJoinConnViews {
	return conns
}

// TestConnectionMethods checks what the schema gives handles and connections, and
// that it gives nothing else: who only reads cannot write.
func TestConnectionMethods(t *testing.T) {
	endings := []string{"Conns", "AutoResponse"}
	ends := func(name string) bool {
		return slices.ContainsFunc(endings, func(ending string) bool { return strings.HasSuffix(name, ending) })
	}
	for _, c := range []struct {
		typ  reflect.Type
		want []string
	}{
		// The names of these can meet none of the runtime's, as long as it has none.
		{reflect.TypeFor[durable.Tx](), nil},
		{reflect.TypeFor[durable.View](), nil},
		{reflect.TypeFor[connectionsv1durable.RoomTx](), []string{
			"EchoAutoResponse", "EchoConns", "FollowConns", "JoinAutoResponse", "JoinConns", "PlayConns", "ResumedConns", "SinceConns", "WatchConns",
		}},
		{reflect.TypeFor[connectionsv1durable.RoomView](), []string{
			"EchoConns", "FollowConns", "JoinConns", "PlayConns", "ResumedConns", "SinceConns", "WatchConns",
		}},
	} {
		var got []string
		for i := range c.typ.NumMethod() {
			if name := c.typ.Method(i).Name; ends(name) {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got)\n%s", c.typ, diff)
		}
	}
	for _, c := range []struct {
		typ  reflect.Type
		want []string
	}{
		{reflect.TypeFor[connectionsv1durable.RoomWatchConnView](), []string{"ID", "LastAutoResponse", "Opened", "Tags"}},
		{reflect.TypeFor[connectionsv1durable.RoomJoinConnView](), []string{"Attachment", "ID", "LastAutoResponse", "Opened", "Tags"}},
		{reflect.TypeFor[connectionsv1durable.RoomWatchConn](), []string{
			"Close", "ID", "LastAutoResponse", "Opened", "Send", "SetTags", "Tags",
		}},
		{reflect.TypeFor[connectionsv1durable.RoomJoinConn](), []string{
			"Attachment", "Close", "ID", "LastAutoResponse", "Opened", "Send", "SetAttachment", "SetTags", "Tags",
		}},
	} {
		var got []string
		for i := range c.typ.NumMethod() {
			got = append(got, c.typ.Method(i).Name)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got)\n%s", c.typ, diff)
		}
	}
}

// TestResume checks that the bounds of the schema reach what is registered.
func TestResume(t *testing.T) {
	methods := registeredConnections(t)
	got := map[string]*durable.ResumeLimits{}
	for name, m := range methods {
		if m.Connection != nil {
			got[name] = m.Connection.Resume
		}
	}
	if diff := cmp.Diff(map[string]*durable.ResumeLimits{
		"Join": nil, "Watch": nil, "Echo": nil, "Since": nil,
		"Follow":  {MaxMessages: 256, MaxBytes: 1 << 20, Window: 2 * time.Minute},
		"Play":    {MaxMessages: 10_000, MaxBytes: 64 << 20, Window: 7 * 24 * time.Hour},
		"Resumed": {MaxMessages: 1, MaxBytes: 1, Window: time.Second},
	}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A connPort notes what is done to a connection.
type connPort struct {
	durable.ConnPort
	id         string
	attachment []byte
	log        []string
}

func (p *connPort) ID() string { return p.id }

func (p *connPort) Send(msg *durable.ConnMessage) error {
	p.log = append(p.log, "send "+msg.Message.(interface{ GetText() string }).GetText())
	return nil
}

func (p *connPort) Close(code durable.CloseCode, reason string) error {
	p.log = append(p.log, fmt.Sprintf("close %d %s", code, reason))
	return nil
}

func (p *connPort) SetTags(tags []string) error {
	p.log = append(p.log, fmt.Sprintf("tags %v", tags))
	return nil
}

func (p *connPort) Attachment() ([]byte, error) { return p.attachment, nil }

func (p *connPort) SetAttachment(msg proto.Message) error {
	p.log = append(p.log, "attach "+string(msg.ProtoReflect().Descriptor().FullName()))
	var err error
	p.attachment, err = proto.Marshal(msg)
	return err
}

// A connsPort has the same connections for every method, and notes what for.
type connsPort struct {
	conns []*connPort
	log   []string
}

func (p *connsPort) Views(procedure string, tags []string) iter.Seq[durable.ConnReader] {
	p.log = append(p.log, fmt.Sprintf("views %s %v", procedure, tags))
	return func(yield func(durable.ConnReader) bool) {
		for _, conn := range p.conns {
			if !yield(conn) {
				return
			}
		}
	}
}

func (p *connsPort) Conns(procedure string, tags []string) iter.Seq[durable.ConnPort] {
	p.log = append(p.log, fmt.Sprintf("conns %s %v", procedure, tags))
	return func(yield func(durable.ConnPort) bool) {
		for _, conn := range p.conns {
			if !yield(conn) {
				return
			}
		}
	}
}

func (p *connsPort) AutoResponse(procedure string) (req, res proto.Message, err error) {
	p.log = append(p.log, "get auto "+procedure)
	return nil, nil, nil
}

func (p *connsPort) SetAutoResponse(procedure string, req, res proto.Message) error {
	p.log = append(p.log, fmt.Sprintf("auto %s %s %s", procedure,
		req.(*connectionsv1.JoinRequest).GetText(), res.(*connectionsv1.JoinResponse).GetText()))
	return nil
}

type connTx struct {
	tx
	port *connsPort
}

func (tx connTx) ConnsPort() durable.ConnsPort { return tx.port }

type connView struct {
	view
	port *connsPort
}

func (view connView) ConnsReader() durable.ConnsReader { return view.port }
