package actor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

// The methods that scripts call. The request is the name of the call in its
// first line and what the handler does in the rest.
var (
	writeMethod = &durable.Method{
		Procedure: "write",
		Unary: func(ctx context.Context, handler any, tx durable.Tx, req proto.Message) (proto.Message, error) {
			return handler.(*scripted).serve(ctx, &interp{tx: tx, kv: tx.KV(), handle: tx}, req)
		},
	}
	viewMethod = &durable.Method{
		Procedure: "view", ReadOnly: true,
		UnaryView: func(ctx context.Context, handler any, view durable.View, req proto.Message) (proto.Message, error) {
			return handler.(*scripted).serve(ctx, &interp{kv: view.KV(), handle: view, shared: true}, req)
		},
	}
	streamMethod = &durable.Method{
		Procedure: "stream", ClientStream: true, ServerStream: true,
		Streaming: func(ctx context.Context, handler any, port durable.StreamPort, req proto.Message) (proto.Message, error) {
			_, err := handler.(*scripted).serve(ctx, &interp{port: port, outside: true}, req)
			return nil, err
		},
	}
)

// A scripted object does what its calls say.
type scripted struct {
	w     *world
	key   string
	field int // guarded by turns alone
}

func (w *world) construct(ctx context.Context, tx durable.Tx) (any, error) {
	o := &scripted{w: w, key: tx.Name()}
	w.mu.Lock()
	w.mu.constructed[o.key]++
	n := w.mu.constructed[o.key]
	steps := w.mu.constructor[o.key]
	w.mu.Unlock()
	in := &interp{w: w, o: o, name: fmt.Sprintf("%s#%d", o.key, n), tx: tx, kv: tx.KV(), handle: tx}
	in.log("begins")
	err := in.run(ctx, steps)
	in.log("ends")
	return o, err
}

// serve runs the script in a request.
func (o *scripted) serve(ctx context.Context, in *interp, req proto.Message) (proto.Message, error) {
	head, script, _ := strings.Cut(req.(*wrapperspb.StringValue).GetValue(), "\n")
	name, seq, _ := strings.Cut(head, " ")
	in.w, in.o, in.name = o.w, o, name
	in.seq, _ = strconv.Atoi(seq)
	steps, _, err := parse(strings.Split(script, "\n"))
	if err != nil {
		return nil, err
	}
	in.log("begins")
	defer in.log("ends")
	err = in.run(ctx, steps)
	return wrapperspb.String(strings.Join(in.reply, " ")), err
}

// A step of a handler. Those that take a body end with a line "end".
type step struct {
	op, arg string
	body    []step
}

func parse(lines []string) (steps []step, rest []string, err error) {
	for len(lines) > 0 {
		text := strings.TrimSpace(lines[0])
		lines = lines[1:]
		op, arg, _ := strings.Cut(text, " ")
		s := step{op: op, arg: arg}
		switch op {
		case "":
			continue
		case "end":
			return steps, lines, nil
		case "await", "savepoint", "try", "later", "call", "tx-call", "update", "view":
			if s.body, lines, err = parse(lines); err != nil {
				return nil, nil, err
			}
		}
		steps = append(steps, s)
	}
	return steps, nil, nil
}

// text is the opposite of parse.
func text(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&b, s.op, s.arg)
		if s.body != nil {
			b.WriteString(text(s.body) + "end\n")
		}
	}
	return b.String()
}

// An interp runs the steps of one call.
type interp struct {
	w       *world
	o       *scripted
	name    string
	seq     int
	shared  bool // in a view
	outside bool // of turns: in Await, in a stream, or in another goroutine

	handle durable.Handle
	tx     durable.Tx // nil in a view
	kv     durable.KVReader
	port   durable.StreamPort // of a stream
	reply  []string
}

func (in *interp) log(format string, args ...any) {
	in.w.log(line{
		key: in.o.key, shared: in.shared, seq: in.seq, outside: in.outside, who: in.name,
		text: fmt.Sprintf(format, args...),
	})
}

func (in *interp) run(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := in.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (in *interp) step(ctx context.Context, s step) error {
	switch s.op {
	// Time.
	case "takes": // whatever happens to the context
		time.Sleep(duration(s.arg))
		return nil
	case "waits": // until its context ends
		select {
		case <-time.After(duration(s.arg)):
			return nil
		case <-ctx.Done():
			in.log("sees %v", context.Cause(ctx))
			return context.Cause(ctx)
		}
	case "now":
		in.log("began its turn at %v", in.handle.Now().Sub(in.w.start))
		return nil
	case "deadline":
		d, ok := ctx.Deadline()
		in.log("has deadline %v: %v", ok, d.Sub(in.w.start))
		return nil

	// Outcomes.
	case "error":
		return errors.New(s.arg)
	case "keep":
		return durable.Keep(errors.New(s.arg))
	case "panic":
		panic(s.arg)
	case "abort":
		defer in.log("runs a deferred function")
		in.tx.Abort(s.arg)
		in.log("goes on after Abort")
		return nil
	case "try": // goes on after an error
		if err := in.run(ctx, s.body); err != nil {
			in.log("goes on after: %v", err)
		}
		return nil

	// Memory.
	case "field": // adds to a field that only turns guard
		in.o.field++
		in.log("field is %d", in.o.field)
		return nil
	case "peek":
		in.log("field is %d", in.o.field)
		return nil
	case "exists":
		in.log("exists: %v", in.handle.Exists())
		return nil
	case "whoami":
		in.log("is %s %s, %q", in.handle.ObjectType(), in.handle.ID(), in.handle.Name())
		return nil

	// Storage.
	case "get", "list", "reply":
		return in.read(ctx, s)
	case "put", "put-unconfirmed", "add", "delete", "delete-all", "put-many", "pages":
		return in.write(ctx, s)
	case "sync":
		err := in.tx.Sync(ctx)
		in.log("synced: %v", err)
		return err
	case "savepoint":
		err := in.tx.Savepoint(func() error { return in.run(ctx, s.body) })
		in.log("savepoint: %v", err)
		return err

	// Other goroutines and other objects.
	case "await":
		in.log("leaves")
		err := in.tx.Await(ctx, func(ctx context.Context) error {
			out := *in
			out.outside = true
			return out.run(ctx, s.body)
		})
		if err != nil {
			in.outside = in.outside || errors.Is(err, durable.ErrReset)
			in.log("comes back with: %v", err)
		} else {
			in.log("comes back")
		}
		return err
	case "later": // in another goroutine, which may outlive the call
		out := *in
		out.outside = true
		out.name += "'s goroutine"
		go func() {
			time.Sleep(duration(s.arg))
			if err := out.run(context.WithoutCancel(ctx), s.body); err != nil {
				out.log("got: %v", err)
			}
		}()
		return nil
	case "call", "tx-call": // of another object: "call b as name"
		key, name, _ := strings.Cut(s.arg, " as ")
		var conn durable.Conn = in.tx
		if in.outside && s.op == "call" {
			conn = fakeConn{in.w}
		}
		var res wrapperspb.StringValue
		err := conn.CallUnary(ctx, &durable.Call{
			Method: durable.MethodSpec{Procedure: "write"},
			Object: durable.RefByName(conn, "room", key),
		}, wrapperspb.String(fmt.Sprintf("%s %d\n%s", name, in.seq, text(s.body))), &res)
		if err != nil {
			in.log("was told by %s: %v", key, err)
			return err
		}
		in.log("was told by %s: ok %s", key, res.GetValue())
		return nil
	case "open-stream":
		_, err := in.tx.OpenStream(ctx, &durable.Call{Object: durable.RefByName(in.tx, "room", s.arg)})
		return err

	// Streams.
	case "update":
		return in.port.Update(ctx, func(tx durable.Tx) error {
			sub := &interp{w: in.w, o: in.o, name: in.name, seq: in.seq, tx: tx, kv: tx.KV(), handle: tx}
			return sub.run(ctx, s.body)
		})
	case "view":
		return in.port.View(ctx, func(view durable.View) error {
			sub := &interp{w: in.w, o: in.o, name: in.name, seq: in.seq, kv: view.KV(), handle: view, shared: true}
			return sub.run(ctx, s.body)
		})
	case "send":
		return in.port.Send(wrapperspb.String(s.arg))
	case "receive":
		var msg wrapperspb.StringValue
		err := in.port.Receive(&msg)
		if err == nil {
			in.log("received %s", msg.GetValue())
		}
		return err
	}
	return fmt.Errorf("no step %q", s.op)
}

func (in *interp) read(ctx context.Context, s step) error {
	switch s.op {
	case "list":
		var found []string
		for e, err := range in.kv.List(ctx) {
			if err != nil {
				return err
			}
			found = append(found, e.Key+"="+string(e.Value))
		}
		in.log("lists %v", found)
		return nil
	default:
		value, ok, err := in.kv.Get(ctx, s.arg)
		if err != nil {
			return err
		}
		text := s.arg + "=" + string(value)
		if !ok {
			text = "no " + s.arg
		}
		if s.op == "reply" {
			in.reply = append(in.reply, text)
		} else {
			in.log("reads %s", text)
		}
		return nil
	}
}

func (in *interp) write(ctx context.Context, s step) error {
	kv := in.tx.KV()
	switch s.op {
	case "put", "put-unconfirmed":
		key, value, _ := strings.Cut(s.arg, "=")
		if s.op == "put-unconfirmed" {
			kv = kv.Unconfirmed()
		}
		return kv.Put(ctx, key, []byte(value))
	case "put-many": // "a=1 b=2"; a key without a value gets a nil value
		var entries []durable.Entry
		for _, field := range strings.Fields(s.arg) {
			key, value, ok := strings.Cut(field, "=")
			e := durable.Entry{Key: key}
			if ok {
				e.Value = []byte(value)
			}
			entries = append(entries, e)
		}
		return kv.PutMany(ctx, entries...)
	case "add":
		value, _, err := kv.Get(ctx, s.arg)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(value))
		in.reply = append(in.reply, strconv.Itoa(n+1))
		return kv.Put(ctx, s.arg, []byte(strconv.Itoa(n+1)))
	case "delete":
		existed, err := kv.Delete(ctx, s.arg)
		in.log("deletes %s: %v", s.arg, existed)
		return err
	case "delete-all":
		return in.tx.DeleteAll(ctx)
	}
	return fmt.Errorf("no step %q", s.op)
}
