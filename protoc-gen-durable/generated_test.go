package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/durable-go/durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/alarms/alarmsv1/alarmsv1durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/comments/commentsv1/commentsv1durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/connections/connectionsv1/connectionsv1durable"
	hybrid2023 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2023/hybridv1/hybridv1durable"
	opaque2023 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2023/opaquev1/opaquev1durable"
	open2023 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2023/openv1/openv1durable"
	hybrid2024 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2024/hybridv1/hybridv1durable"
	opaquemsg2024 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2024/opaquev1"
	opaque2024 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2024/opaquev1/opaquev1durable"
	open2024 "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/edition2024/openv1/openv1durable"
	ctxpb "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/foreign/ctx"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/foreign/foreignv1/foreignv1durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/minimal/minimalv1"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/minimal/minimalv1/minimalv1durable"
	names "github.com/durable-go/durable/protoc-gen-durable/internal/testdata/names/type"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/names/type/typedurable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/objectoption/legacyv1/legacyv1durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/samepackage/seatv1"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/services/servicesv1/servicesv1durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/streams/streamsv1"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/streams/streamsv1/streamsv1durable"
)

// TestGenerated registers every generated object with an unimplemented handler,
// and calls all of its methods.
func TestGenerated(t *testing.T) {
	r := &registrar{}
	for _, err := range []error{
		alarmsv1durable.RegisterRoom(r, handler[alarmsv1durable.RoomTx](alarmsv1durable.RoomHandler(alarmsv1durable.UnimplementedRoomHandler{}))),
		alarmsv1durable.RegisterTimer(r, handler[alarmsv1durable.TimerTx](alarmsv1durable.TimerHandler(alarmsv1durable.UnimplementedTimerHandler{}))),
		alarmsv1durable.RegisterEgg(r, handler[alarmsv1durable.EggTx](alarmsv1durable.EggHandler(alarmsv1durable.UnimplementedEggHandler{}))), //nolint:staticcheck // that deprecations are carried over is what it shows
		alarmsv1durable.RegisterStone(r, handler[alarmsv1durable.StoneTx](alarmsv1durable.StoneHandler(alarmsv1durable.UnimplementedStoneHandler{}))),
		commentsv1durable.RegisterRoom(r, handler[commentsv1durable.RoomTx](commentsv1durable.RoomHandler(commentsv1durable.UnimplementedRoomHandler{}))),
		commentsv1durable.RegisterOld(r, handler[commentsv1durable.OldTx](commentsv1durable.OldHandler(commentsv1durable.UnimplementedOldHandler{}))),             //nolint:staticcheck // that deprecations are carried over is what it shows
		commentsv1durable.RegisterFormer(r, handler[commentsv1durable.FormerTx](commentsv1durable.FormerHandler(commentsv1durable.UnimplementedFormerHandler{}))), //nolint:staticcheck // that deprecations are carried over is what it shows
		connectionsv1durable.RegisterRoom(r, handler[connectionsv1durable.RoomTx](connectionsv1durable.RoomHandler(connectionsv1durable.UnimplementedRoomHandler{}))),
		connectionsv1durable.RegisterName(r, handler[connectionsv1durable.NameTx](connectionsv1durable.NameHandler(connectionsv1durable.UnimplementedNameHandler{}))),
		open2023.RegisterDoor(r, handler[open2023.DoorTx](open2023.DoorHandler(open2023.UnimplementedDoorHandler{}))),
		hybrid2023.RegisterDoor(r, handler[hybrid2023.DoorTx](hybrid2023.DoorHandler(hybrid2023.UnimplementedDoorHandler{}))),
		opaque2023.RegisterDoor(r, handler[opaque2023.DoorTx](opaque2023.DoorHandler(opaque2023.UnimplementedDoorHandler{}))),
		open2024.RegisterDoor(r, handler[open2024.DoorTx](open2024.DoorHandler(open2024.UnimplementedDoorHandler{}))),
		hybrid2024.RegisterDoor(r, handler[hybrid2024.DoorTx](hybrid2024.DoorHandler(hybrid2024.UnimplementedDoorHandler{}))),
		opaque2024.RegisterDoor(r, handler[opaque2024.DoorTx](opaque2024.DoorHandler(opaque2024.UnimplementedDoorHandler{}))),
		foreignv1durable.RegisterBorder(r, handler[foreignv1durable.BorderTx](foreignv1durable.BorderHandler(foreignv1durable.UnimplementedBorderHandler{}))),
		minimalv1durable.RegisterCart(r, handler[minimalv1durable.CartTx](minimalv1durable.CartHandler(minimalv1durable.UnimplementedCartHandler{}))),
		typedurable.RegisterType(r, handler[typedurable.TypeTx](typedurable.TypeHandler(typedurable.UnimplementedTypeHandler{}))),
		typedurable.RegisterService(r, handler[typedurable.ServiceTx](typedurable.ServiceHandler(typedurable.UnimplementedServiceHandler{}))),
		typedurable.RegisterHttpApi(r, handler[typedurable.HttpApiTx](typedurable.HttpApiHandler(typedurable.UnimplementedHttpApiHandler{}))),
		legacyv1durable.RegisterLegacy(r, handler[legacyv1durable.LegacyTx](legacyv1durable.LegacyHandler(legacyv1durable.UnimplementedLegacyHandler{}))),
		legacyv1durable.RegisterThird(r, handler[legacyv1durable.ThirdTx](legacyv1durable.ThirdHandler(legacyv1durable.UnimplementedThirdHandler{}))),
		seatv1.RegisterSeat(r, handler[seatv1.SeatTx](seatv1.SeatHandler(seatv1.UnimplementedSeatHandler{}))),
		servicesv1durable.RegisterAccount(r, handler[servicesv1durable.AccountTx](servicesv1durable.AccountHandler(servicesv1durable.UnimplementedAccountHandler{}))),
		servicesv1durable.RegisterAccountType(r, handler[servicesv1durable.AccountTypeTx](servicesv1durable.AccountTypeHandler(servicesv1durable.UnimplementedAccountTypeHandler{}))),
		servicesv1durable.RegisterLedger(r, handler[servicesv1durable.LedgerTx](servicesv1durable.LedgerHandler(servicesv1durable.UnimplementedLedgerHandler{}))),
		streamsv1durable.RegisterFeed(r, handler[streamsv1durable.FeedTx](streamsv1durable.FeedHandler(streamsv1durable.UnimplementedFeedHandler{}))),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, object := range r.types {
		t.Run(string(object.Service.FullName()), func(t *testing.T) { checkObject(t, object) })
	}
}

// checkObject compares an object type with its schema and calls its methods,
// which are unimplemented.
func checkObject(t *testing.T, object *durable.ObjectType) {
	if len(object.Methods) != object.Service.Methods().Len() {
		t.Errorf("%d methods", len(object.Methods))
	}
	h, err := object.New(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range object.Methods {
		desc := m.Desc
		if want := "/" + string(object.Service.FullName()) + "/" + string(desc.Name()); m.Procedure != want {
			t.Errorf("%s: want %s", m.Procedure, want)
		}
		level := desc.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel()
		if readOnly := level == descriptorpb.MethodOptions_NO_SIDE_EFFECTS; m.ReadOnly != readOnly {
			t.Errorf("%s: ReadOnly is %t", m.Procedure, m.ReadOnly)
		}
		if m.ClientStream != desc.IsStreamingClient() || m.ServerStream != desc.IsStreamingServer() {
			t.Errorf("%s: streams %t, %t", m.Procedure, m.ClientStream, m.ServerStream)
		}
		if door := desc.Input().Fields().ByName("door"); door != nil && m.KeyField != door {
			t.Errorf("%s: the key is %v", m.Procedure, m.KeyField)
		}
		if id := desc.Input().Fields().ByName("request_id"); m.IdempotencyField != id {
			t.Errorf("%s: the idempotency key is %v", m.Procedure, m.IdempotencyField)
		}
		req := m.NewRequest()
		if req.ProtoReflect().Descriptor() != desc.Input() || m.NewResponse().ProtoReflect().Descriptor() != desc.Output() {
			t.Errorf("%s: the messages are of other types", m.Procedure)
		}
		var errs []error
		call := func(_ proto.Message, err error) { errs = append(errs, err) }
		switch {
		case m.Connection != nil:
			if (m.Connection.Message != nil) != m.ClientStream || m.Streaming != nil {
				t.Fatalf("%s: it has a handler of messages, or has none, or one that is no turn", m.Procedure)
			}
			call(nil, m.Connection.Open(t.Context(), h, nil, nil, req))
			if m.ClientStream {
				call(nil, m.Connection.Message(t.Context(), h, nil, nil, req))
			}
			call(nil, m.Connection.Close(t.Context(), h, nil, nil, nil))
		case m.Streaming != nil:
			call(m.Streaming(t.Context(), h, &streamPort{}, req))
		case m.ReadOnly:
			call(m.UnaryView(t.Context(), h, nil, req))
		default:
			call(m.Unary(t.Context(), h, nil, req))
		}
		for _, err := range errs {
			if want := "durable: not implemented: " + m.Procedure; !errors.Is(err, durable.ErrUnimplemented) || err.Error() != want {
				t.Errorf("%s: got error %v", m.Procedure, err)
			}
		}
	}
	for _, a := range object.Alarms {
		var payload proto.Message
		if a.NewPayload != nil {
			payload = a.NewPayload()
		}
		what := "the default alarm"
		if a.Name != "" {
			what = fmt.Sprintf("the alarm %q", a.Name)
		}
		err := a.Run(t.Context(), h, nil, durable.AlarmInfo{}, payload)
		want := fmt.Sprintf("durable: not implemented: %s of %s", what, object.Service.FullName())
		if !errors.Is(err, durable.ErrUnimplemented) || err.Error() != want {
			t.Errorf("alarm %q: got error %v", a.Name, err)
		}
	}
}

// feed implements every shape of method.
type feed struct{ t *testing.T }

func (f feed) Post(_ context.Context, tx streamsv1durable.FeedTx, req *streamsv1.PostRequest) (*streamsv1.PostResponse, error) {
	return &streamsv1.PostResponse{Text: "posted " + req.GetText() + " to " + tx.Name()}, nil
}

func (f feed) Read(_ context.Context, view streamsv1durable.FeedView, req *streamsv1.PostRequest) (*streamsv1.PostResponse, error) {
	return &streamsv1.PostResponse{Text: "read " + req.GetText() + " from " + view.Name()}, nil
}

func (f feed) Pull(ctx context.Context, s streamsv1durable.FeedPullStream, req *streamsv1.PostRequest) error {
	return s.Update(ctx, func(tx streamsv1durable.FeedTx) error {
		return s.Send(&streamsv1.PostResponse{Text: "pulled " + req.GetText() + " from " + tx.Name()})
	})
}

func (f feed) Watch(ctx context.Context, s streamsv1durable.FeedWatchStream, req *streamsv1.PostRequest) error {
	return s.View(ctx, func(view streamsv1durable.FeedView) error {
		return s.Send(&streamsv1.PostResponse{Text: "watched " + req.GetText() + " of " + view.Name()})
	})
}

func (f feed) Push(_ context.Context, s streamsv1durable.FeedPushStream) (*streamsv1.PostResponse, error) {
	res := &streamsv1.PostResponse{Text: "pushed"}
	for req, err := range s.All() {
		if err != nil {
			return nil, err
		}
		res.Text += " " + req.GetText()
	}
	return res, nil
}

func (f feed) Chat(_ context.Context, s streamsv1durable.FeedChatStream) error {
	for req, err := range s.All() {
		if err != nil {
			return err
		}
		if err := s.Send(&streamsv1.PostResponse{Text: "said " + req.GetText()}); err != nil {
			return err
		}
	}
	return nil
}

// TestShapes calls a method of every shape through its stub, over a connection
// that hands the call to the registered method.
func TestShapes(t *testing.T) {
	r := &registrar{}
	err := streamsv1durable.RegisterFeed(r, func(_ context.Context, tx streamsv1durable.FeedTx) (streamsv1durable.FeedHandler, error) {
		if got := tx.Name(); got != "news" {
			t.Errorf("the constructor was given a handle of %q", got)
		}
		return feed{t}, nil
	}, durable.WithDefaultName("news"))
	if err != nil {
		t.Fatal(err)
	}
	conn := &conn{object: r.types[0]}
	stub := streamsv1durable.NewFeedClient(conn).GetByName("news")
	ctx, req := t.Context(), &streamsv1.PostRequest{Text: "hello"}
	var got []string
	add := func(res *streamsv1.PostResponse, err error) {
		if err != nil {
			t.Error(err)
		}
		got = append(got, res.GetText())
	}
	add(stub.Post(ctx, req))
	add(stub.Read(ctx, req))

	pull, err := stub.Pull(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	add(pull.Receive())
	watch, err := stub.Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	add(watch.Receive())

	push, err := stub.Push(ctx)
	if err != nil {
		t.Fatal(err)
	}
	chat, err := stub.Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := errors.Join(push.Send(&streamsv1.PostRequest{Text: text}), chat.Send(&streamsv1.PostRequest{Text: text})); err != nil {
			t.Fatal(err)
		}
	}
	add(push.CloseAndReceive())
	if err := chat.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for res, err := range chat.All() {
		add(res, err)
	}

	want := []string{
		"posted hello to news", "read hello from news", "pulled hello from news", "watched hello of news",
		"pushed one two", "said one", "said two",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	const service = "/durabletest.streams.FeedService/"
	wantCalls := []durable.MethodSpec{
		{Procedure: service + "Post"},
		{Procedure: service + "Read", ReadOnly: true},
		{Procedure: service + "Pull", ServerStream: true, Idempotent: true},
		{Procedure: service + "Watch", ReadOnly: true, ServerStream: true},
		{Procedure: service + "Push", ClientStream: true},
		{Procedure: service + "Chat", ClientStream: true, ServerStream: true},
	}
	var calls []durable.MethodSpec
	for _, call := range conn.calls {
		calls = append(calls, call.Method)
		name, byName := call.Object.Name()
		if call.Object.ObjectType() != "feed" || name != "news" || !byName {
			t.Errorf("%s called object %s %q", call.Method.Procedure, call.Object.ObjectType(), name)
		}
	}
	if diff := cmp.Diff(wantCalls, calls); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestClient(t *testing.T) {
	const objectType = "durabletest.minimal.CartService" // by default the full name
	conn := &conn{}
	carts := minimalv1durable.NewCartClient(conn)
	named, random := carts.IDFromName("ann"), carts.NewUniqueID()
	if named != durable.IDFromName(objectType, "ann") {
		t.Error("IDFromName is of another type")
	}
	if err := durable.CheckID(objectType, random); err != nil {
		t.Error(err)
	}
	parsed, err := carts.ParseID(random.String())
	if err != nil || parsed != random {
		t.Errorf("ParseID returned %v, %v", parsed, err)
	}
	if _, err := carts.ParseID(durable.NewUniqueID("other").String()); err == nil {
		t.Error("ParseID took an id of another type")
	}

	const header = "X-Test"
	req := &minimalv1.AddItemRequest{Cart: "ann"}
	for _, stub := range []minimalv1durable.CartStub{carts.GetByName("ann"), carts.Get(random)} {
		if _, err := stub.AddItem(t.Context(), req, durable.WithHeader(header, "1")); err != nil {
			t.Error(err)
		}
	}
	for i, want := range []durable.ID{named, random} {
		call := conn.calls[i]
		if call.Object.ID() != want || call.Object.ObjectType() != objectType || call.Header.Get(header) != "1" {
			t.Errorf("call %d: %+v", i, call)
		}
	}
	if minimalv1durable.CartType != objectType || minimalv1durable.CartServiceName != objectType ||
		minimalv1durable.CartAddItemProcedure != "/"+objectType+"/AddItem" {
		t.Error("the constants differ")
	}
}

// TestNames uses what stays reachable where a method is called like something
// else.
func TestNames(t *testing.T) {
	conn := &conn{}
	stub := typedurable.NewTypeClient(conn).GetByName("ann")
	ctx, req := t.Context(), &names.Context{}
	for _, call := range []func(context.Context, *names.Context, ...durable.CallOption) (*names.TypeTx, error){
		stub.Ref_, stub.ID, stub.Name, stub.ObjectType, stub.Get, stub.Func, stub.String, stub.Import, stub.HTTPGetURLV2,
	} {
		if _, err := call(ctx, req); err != nil {
			t.Error(err)
		}
	}
	var got []string
	for _, call := range conn.calls {
		got = append(got, call.Method.Procedure[len("/durabletest.names.Type/"):])
	}
	want := []string{"Ref", "ID", "Name", "ObjectType", "Get", "Func", "String", "import", "HTTPGetURL_v2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if name, ok := stub.Ref.Name(); name != "ann" || !ok {
		t.Errorf("the ref is of %q", name)
	}

	border := foreignv1durable.NewBorderClient(conn).GetByName("x")
	if _, err := border.Ctx(ctx, &ctxpb.Message{}); err != nil {
		t.Error(err)
	}
	if _, err := border.Clear(ctx, &emptypb.Empty{}); err != nil {
		t.Error(err)
	}
	opaque := opaque2024.NewDoorClient(conn).GetByName("x")
	if _, err := opaque.Open(ctx, opaquemsg2024.OpenRequest_builder{Door: "x"}.Build()); err != nil {
		t.Error(err)
	}
}

// handler makes a factory that always returns h.
func handler[T ~struct{ durable.Tx }, H any](h H) func(context.Context, T) (H, error) {
	return func(context.Context, T) (H, error) { return h, nil }
}

// A registrar keeps what is registered.
type registrar struct{ types []*durable.ObjectType }

func (r *registrar) RegisterObject(t *durable.ObjectType) error {
	r.types = append(r.types, t)
	return nil
}

// A conn notes calls, and if it has an object, hands them to it.
type conn struct {
	object *durable.ObjectType
	calls  []*durable.Call
}

func (c *conn) method(ctx context.Context, call *durable.Call) (any, *durable.Method, error) {
	c.calls = append(c.calls, call)
	if c.object == nil {
		return nil, nil, nil
	}
	h, err := c.object.New(ctx, tx{})
	for i, m := range c.object.Methods {
		if m.Procedure == call.Method.Procedure {
			return h, &c.object.Methods[i], err
		}
	}
	return nil, nil, errors.New("no such method")
}

func (c *conn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	h, m, err := c.method(ctx, call)
	if err != nil || m == nil {
		return err
	}
	var got proto.Message
	if m.UnaryView != nil {
		got, err = m.UnaryView(ctx, h, view{}, req)
	} else {
		got, err = m.Unary(ctx, h, tx{}, req)
	}
	if err == nil {
		proto.Merge(res, got)
	}
	return err
}

func (c *conn) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	h, m, err := c.method(ctx, call)
	if err != nil {
		return nil, err
	}
	run := func(port durable.StreamPort, req proto.Message) (proto.Message, error) {
		return m.Streaming(ctx, h, port, req)
	}
	return &clientPort{run: run, clientStreams: m.ClientStream}, nil
}

// A clientPort collects the requests, runs the method when there are no more,
// and then gives the responses.
type clientPort struct {
	run           func(port durable.StreamPort, req proto.Message) (proto.Message, error)
	clientStreams bool
	streamPort
}

func (p *clientPort) Send(msg proto.Message) error {
	p.requests = append(p.requests, proto.Clone(msg))
	return nil
}

func (p *clientPort) CloseSend() error {
	var req proto.Message
	if !p.clientStreams {
		req = p.requests[0]
	}
	res, err := p.run(&p.streamPort, req)
	if res != nil {
		p.responses = append(p.responses, res)
	}
	return err
}

func (p *clientPort) Receive(msg proto.Message) error { return take(&p.responses, msg) }

func (p *clientPort) Close() error { return nil }

// A streamPort is the handler's end.
type streamPort struct{ requests, responses []proto.Message }

func (p *streamPort) Update(_ context.Context, fn func(durable.Tx) error) error { return fn(tx{}) }

func (p *streamPort) View(_ context.Context, fn func(durable.View) error) error { return fn(view{}) }

func (p *streamPort) Send(msg proto.Message) error {
	p.responses = append(p.responses, msg)
	return nil
}

func (p *streamPort) Receive(msg proto.Message) error { return take(&p.requests, msg) }

func take(list *[]proto.Message, msg proto.Message) error {
	if len(*list) == 0 {
		return io.EOF
	}
	proto.Merge(msg, (*list)[0])
	*list = (*list)[1:]
	return nil
}

type tx struct{ durable.Tx }

func (tx) Name() string { return "news" }

type view struct{ durable.View }

func (view) Name() string { return "news" }
