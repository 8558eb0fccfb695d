// Package server serves durable objects.
//
// A [Server] owns the objects of one store. It is a [durable.Registrar]; its
// [Server.Handler] serves every registered type over Connect, gRPC and gRPC-Web,
// with reflection and health; its [Server.Conn] calls them from within the
// process.
//
// # The key of a call
//
// A call names its object in the request field that the schema marks, in the
// header Durable-Name (percent-encoded UTF-8) or Durable-Id, or in the URL:
// /-/name/{name}/pkg.Service/Method or /-/id/{id}/pkg.Service/Method. All that
// are there must name the same object. Where the marked field is empty, the
// server fills it in. A stream is named by header, URL or its first message.
package server
