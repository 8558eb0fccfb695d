// Package model turns the descriptors of a plugin request into what the
// generated code says: plain structs, checked in every respect, so that nothing
// that comes later can fail for a reason a user could mend. Every mistake in a
// schema or in the plugin's options is a [Diagnostic] made here.
package model

import (
	"google.golang.org/protobuf/compiler/protogen"
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

	service *protogen.Service
}

// A Method is one method of an [Object].
type Method struct {
	Name       string // in Go: "Add"
	StubName   string // the same, unless something of the stub is called so
	Procedure  string // "/counter.v1.CounterService/Add"
	Shape      Shape
	ReadOnly   bool // NO_SIDE_EFFECTS
	Request    protogen.GoIdent
	Response   protogen.GoIdent
	Comment    string // lines without "//"; may be empty
	Deprecated bool

	object *Object
	method *protogen.Method
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

// TypeConst is the Go name of the constant with the stored name.
func (o *Object) TypeConst() string { return o.Name + "Type" }

// ServiceConst is the Go name of the constant with the full name of the service.
func (o *Object) ServiceConst() string { return o.Name + "ServiceName" }

// Tx is the Go name of the handle that may write.
func (o *Object) Tx() string { return o.Name + "Tx" }

// View is the Go name of the handle that only reads.
func (o *Object) View() string { return o.Name + "View" }

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
