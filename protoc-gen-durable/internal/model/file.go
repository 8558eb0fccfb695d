// Package model turns the descriptors of a plugin request into what the
// generated code says: plain structs, checked in every respect, so that nothing
// that comes later can fail for a reason a user could mend. Every mistake in a
// schema or in the plugin's options is a [Diagnostic] made here.
package model

import (
	"slices"
	"strconv"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A File is one Go file to write.
type File struct {
	Name       string                // path below the plugin's output directory
	ImportPath protogen.GoImportPath // of the package that the file is part of
	Package    protogen.GoPackageName
	Source     string           // path of the .proto, as it is imported
	Descriptor protogen.GoIdent // the variable with the file's descriptor
	Objects    []*Object        // at least one
}

// An Object is a service that is an object type.
type Object struct {
	Name        string    // in Go: "Counter"
	Type        string    // the stored name
	ServiceName string    // in its file: "CounterService"
	FullName    string    // "counter.v1.CounterService"
	Comment     string    // lines without "//"; may be empty
	Deprecated  bool      // it is, or the whole .proto
	Methods     []*Method // at least one
	Alarms      []*Alarm  // in the order of the schema

	service *protogen.Service
}

// A Method is one method of an [Object].
type Method struct {
	Name       string // in Go: "Add"
	StubName   string // the same, unless something of the stub is called so
	Procedure  string // "/counter.v1.CounterService/Add"
	Shape      Shape
	ReadOnly   bool // NO_SIDE_EFFECTS
	Idempotent bool // IDEMPOTENT
	Request    protogen.GoIdent
	Response   protogen.GoIdent
	Comment    string // lines without "//"; may be empty
	Deprecated bool
	Connection *Connection // of a hibernatable method; nil: it is none

	object *Object
	method *protogen.Method
}

// A Connection says of a hibernatable [Method] how its streams are served, which
// are connections.
type Connection struct {
	Attachment *protogen.GoIdent // nil: it has none
	Resume     bool              // clients can come back

	method *Method
}

// An Alarm is one alarm of an [Object].
type Alarm struct {
	Name    string            // as it is declared; empty for the default alarm
	GoName  string            // "Sweep"; empty for the default alarm
	Payload *protogen.GoIdent // nil: it has none

	object *Object
	path   protoreflect.SourcePath
}

// A Shape says which sides of a method stream.
type Shape int

// The shapes.
const (
	Unary Shape = iota
	ServerStream
	ClientStream
	BidiStream
)

// Hibernates reports whether a method of the file is hibernatable.
func (f *File) Hibernates() bool {
	return slices.ContainsFunc(f.Objects, func(o *Object) bool {
		return slices.ContainsFunc(o.Methods, func(m *Method) bool { return m.Connection != nil })
	})
}

// TypeConst is the Go name of the constant with the stored name.
func (o *Object) TypeConst() string { return o.Name + "Type" }

// ServiceConst is the Go name of the constant with the full name of the service.
func (o *Object) ServiceConst() string { return o.Name + "ServiceName" }

// Tx is the Go name of the handle that may write.
func (o *Object) Tx() string { return o.Name + "Tx" }

// View is the Go name of the handle that only reads.
func (o *Object) View() string { return o.Name + "View" }

// Turns is the Go name of what background work gets.
func (o *Object) Turns() string { return o.Name + "Turns" }

// DefaultAlarm returns the alarm without a name, nil if there is none.
func (o *Object) DefaultAlarm() *Alarm {
	for _, a := range o.Alarms {
		if a.Name == "" {
			return a
		}
	}
	return nil
}

// NamedAlarms returns the other alarms.
func (o *Object) NamedAlarms() []*Alarm {
	var named []*Alarm
	for _, a := range o.Alarms {
		if a.Name != "" {
			named = append(named, a)
		}
	}
	return named
}

// AlarmSet is the Go name of the type that has the named alarms.
func (o *Object) AlarmSet() string { return o.Name + "Alarms" }

// AlarmViewSet is the Go name of the type that has the named alarms of a view.
func (o *Object) AlarmViewSet() string { return o.Name + "AlarmViews" }

// Handler is the Go name of the interface to implement.
func (o *Object) Handler() string { return o.Name + "Handler" }

// Unimplemented is the Go name of the handler that implements nothing.
func (o *Object) Unimplemented() string { return "Unimplemented" + o.Name + "Handler" }

// Factory is the Go name of the type of the constructor.
func (o *Object) Factory() string { return o.Name + "Factory" }

// Register is the Go name of the function that registers the object.
func (o *Object) Register() string { return "Register" + o.Name }

// Client is the Go name of the type that makes stubs.
func (o *Object) Client() string { return o.Name + "Client" }

// NewClient is the Go name of the function that makes a client.
func (o *Object) NewClient() string { return "New" + o.Name + "Client" }

// Stub is the Go name of the stub.
func (o *Object) Stub() string { return o.Name + "Stub" }

// ProcedureConst is the Go name of the constant with the method's procedure.
func (m *Method) ProcedureConst() string { return m.object.Name + m.Name + "Procedure" }

// Stream is the Go name of the type of the handler's end of a streaming method.
func (m *Method) Stream() string { return m.object.Name + m.Name + "Stream" }

// Handlers are the Go names of the methods of the handler that serve the method.
func (m *Method) Handlers() []string {
	c := m.Connection
	switch {
	case c == nil:
		return []string{m.Name}
	case m.Shape == ServerStream:
		return []string{c.OpenHandler(), c.CloseHandler()}
	}
	return []string{c.OpenHandler(), c.MessageHandler(), c.CloseHandler()}
}

// OpenHandler is the Go name of the method of the handler that runs when a
// connection opens.
func (c *Connection) OpenHandler() string { return c.method.Name + "Open" }

// MessageHandler is the Go name of the method of the handler that runs for each
// message, where clients send more than one.
func (c *Connection) MessageHandler() string { return c.method.Name + "Message" }

// CloseHandler is the Go name of the method of the handler that runs when a
// connection has ended.
func (c *Connection) CloseHandler() string { return c.method.Name + "Close" }

// Type is the Go name of the type of a connection.
func (c *Connection) Type() string { return c.method.object.Name + c.method.Name + "Conn" }

// ViewType is the Go name of the type of a connection, to read.
func (c *Connection) ViewType() string { return c.Type() + "View" }

// SetType is the Go name of the type of many connections.
func (c *Connection) SetType() string { return c.Type() + "s" }

// ViewSetType is the Go name of the type of many connections, to read.
func (c *Connection) ViewSetType() string { return c.ViewType() + "s" }

// Set is the Go name of the method of a handle that returns the connections.
func (c *Connection) Set() string { return c.method.Name + "Conns" }

// AutoResponse is the Go name of the method of a handle that returns what is
// answered without the object; empty where there is nothing of the kind.
func (c *Connection) AutoResponse() string {
	if c.method.Shape != BidiStream || c.Resume {
		return ""
	}
	return c.method.Name + "AutoResponse"
}

// Handler is the Go name of the method of the handler that the alarm runs.
func (a *Alarm) Handler() string { return a.GoName + "Alarm" }

// Info is the Go name of the type that tells the handler of the run.
func (a *Alarm) Info() string { return a.object.Name + a.GoName + "Alarm" }

// NameConst is the Go name of the constant with the name of a named alarm.
func (a *Alarm) NameConst() string { return a.Info() + "Name" }

// What says which alarm it is, in a sentence.
func (a *Alarm) What() string {
	if a.Name == "" {
		return "the default alarm"
	}
	return "the alarm " + strconv.Quote(a.Name)
}
