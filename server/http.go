package server

import (
	"context"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	connectv1 "connectrpc.com/connect"
	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/gen/durable/admin/v1/adminv1connect"
	"github.com/durable-go/durable/internal/actor"
)

// newHandler makes the handler of everything registered. The caller holds mu.
func (s *Server) newHandler() http.Handler {
	dispatch := connect.NewServer(s.opts.interceptors...)
	s.routes.Range(func(_, value any) bool {
		r := value.(*route)
		handler := s.unary(r)
		if r.streams() {
			handler = keyless(r, s.streaming(r))
		}
		dispatch.Register(connect.Method{Spec: spec(r.method), Handler: handler})
		return true
	})

	mux := http.NewServeMux()
	opts := s.opts.http
	if s.opts.strictJSON {
		opts = append(opts, connecthttp.WithCodecs(connectproto.NewBinaryCodec(), strictJSON()))
	}
	if s.opts.maxMessage > 0 {
		opts = append(opts, connecthttp.WithReadMaxBytes(s.opts.maxMessage))
	}
	connecthttp.Mount(mux, dispatch, opts...)

	services := append([]string{grpchealth.HealthV1ServiceName}, s.mu.services...)
	if s.opts.adminToken != nil {
		services = append(services, adminv1connect.AdminServiceName)
		mux.Handle(adminPath, guard(s.opts.adminToken, s.adminService()))
	}
	s.mountHealth(mux, services)
	s.mountReflection(mux, services)
	fallback := s.opts.fallback
	if fallback == nil {
		fallback = http.HandlerFunc(unknownService)
	}
	mux.Handle("/", fallback)
	objects := map[string]bool{}
	for _, service := range s.mu.services {
		objects[service] = true
	}
	return s.ingress(objects, s.newSockets(dispatch), mux)
}

// maxAuxiliaryBytes limits the messages of health and reflection, which ask for
// a name.
const maxAuxiliaryBytes = 16 << 10

// mountHealth serves the health of the named services.
func (s *Server) mountHealth(mux *http.ServeMux, services []string) {
	limit := connectv1.WithReadMaxBytes(maxAuxiliaryBytes)
	mux.Handle(grpchealth.NewHandler(&health{s, grpchealth.NewStaticChecker(services...)}, limit))
}

// mountReflection serves the schemas of the named services, unless the server is
// not to.
func (s *Server) mountReflection(mux *http.ServeMux, services []string) {
	if s.opts.noReflection {
		return
	}
	limit := connectv1.WithReadMaxBytes(maxAuxiliaryBytes)
	reflector := grpcreflect.NewStaticReflector(append(slices.Clone(services), grpcreflect.ReflectV1ServiceName, grpcreflect.ReflectV1AlphaServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, limit))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, limit))
}

// unknownService answers calls of services that nobody registered: gRPC clients
// get a status, all others a plain 404, which is what Connect asks for.
func unknownService(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		http.NotFound(w, r)
		return
	}
	_ = connecthttp.NewErrorWriter().Write(w, r, connect.Errorf(connect.CodeUnimplemented, "procedure %q not registered", r.URL.Path))
}

func strictJSON() *connectproto.JSONCodec {
	codec := connectproto.NewJSONCodec()
	codec.UnmarshalOptions.DiscardUnknown = false
	return codec
}

func spec(m *durable.Method) connect.Spec {
	sp := connect.Spec{Procedure: m.Procedure, Schema: m.Desc}
	if m.ReadOnly {
		sp.IdempotencyLevel = connect.IdempotencyNoSideEffects
	}
	if m.ClientStream {
		sp.StreamType |= connect.StreamTypeClient
	}
	if m.ServerStream {
		sp.StreamType |= connect.StreamTypeServer
	}
	return sp
}

// health reports objects as not serving while the server drains.
type health struct {
	s      *Server
	static *grpchealth.StaticChecker
}

// Check implements [grpchealth.Checker].
func (h *health) Check(ctx context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	res, err := h.static.Check(ctx, req)
	if err != nil {
		return nil, err
	}
	h.s.mu.Lock()
	draining := h.s.mu.draining
	h.s.mu.Unlock()
	if draining || h.s.session.Err() != nil {
		res.Status = grpchealth.StatusNotServing
	}
	return res, nil
}

// Headers of ours.
const (
	headerName   = "Durable-Name"
	headerID     = "Durable-Id"
	headerPrefix = "Durable-"
)

// urlKey is the part of a URL that names an object.
type urlKey struct {
	kind string // "name" or "id"
	text string // still escaped
}

type (
	urlKeyContext struct{}
	writerContext struct{}
)

// ingress takes the key out of the URL and internal headers out of the request,
// and keeps the response writer for streams. Only the named services, those of
// objects, can be called with a key in the URL. A GET of a hibernatable method is
// for sockets.
func (s *Server) ingress(objects map[string]bool, sockets *sockets, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.HasPrefix(name, headerPrefix) && name != headerName && name != headerID && name != durable.ResumeHeader {
				r.Header.Del(name)
			}
		}
		if strings.HasPrefix(r.URL.Path, "/-/") {
			key, path, ok := cutURLKey(r.URL.EscapedPath())
			if !ok || !objects[serviceOf(path)] {
				http.Error(w, "not found: a path with a key is /-/name/{name}/package.Service/Method or /-/id/{id}/package.Service/Method", http.StatusNotFound)
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), urlKeyContext{}, key))
			u := *r.URL
			u.Path, u.RawPath = path, ""
			r.URL = &u
		}
		if value, ok := s.routes.Load(r.URL.Path); ok && value.(*route).streams() {
			ctx := withResume(r.Context(), resumeValues(r.Header, r.URL.Query()))
			if route := value.(*route); route.method.Connection != nil && r.Method == http.MethodGet {
				sockets.serve(w, r.WithContext(ctx), route)
				return
			}
			r = r.WithContext(context.WithValue(ctx, writerContext{}, w))
		}
		next.ServeHTTP(w, r)
	})
}

// cutURLKey splits /-/kind/key/pkg.Service/Method.
func cutURLKey(escaped string) (key urlKey, procedure string, ok bool) {
	rest := strings.TrimPrefix(escaped, "/-/")
	kind, rest, ok := strings.Cut(rest, "/")
	if !ok || kind != "name" && kind != "id" {
		return urlKey{}, "", false
	}
	text, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return urlKey{}, "", false
	}
	procedure, err := url.PathUnescape("/" + rest)
	// A path that is not clean would be redirected to one without the key.
	return urlKey{kind: kind, text: text}, procedure, err == nil && path.Clean(procedure) == procedure
}

// serviceOf returns the service of a procedure, empty when path is not like one.
func serviceOf(path string) string {
	service, method, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if method == "" || strings.Contains(method, "/") {
		return ""
	}
	return service
}

// unary serves a method with one request and one response.
func (s *Server) unary(r *route) connect.ServerFunc {
	return func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		info, _ := connect.CallInfoForServerContext(ctx)
		req := r.method.NewRequest()
		if err := stream.Receive(req); err != nil {
			return err
		}
		if r.method.ReadOnly {
			cacheHeaders(ctx, r, info)
		}
		key, err := r.resolve(outerKeys(ctx, r, info), req)
		if err != nil {
			return wireError(err, r, durable.ID{})
		}
		call := callInfo(r, info)
		res := r.method.NewResponse()
		once, err := r.once(ctx, info.RequestHeader().Values(durable.IdempotencyKeyHeader), call, key.id, req, res)
		if err != nil {
			return wireError(err, r, key.id)
		}
		err = s.host.Unary(durable.ContextWithCallInfo(ctx, call), actor.Call{
			Type: r.typ, Method: r.method, ID: key.id, Name: key.name,
			Bytes: int64(info.ReceiveStats.Size), Once: once,
		}, req, res)
		respond(call, info)
		if err != nil {
			return s.ended(err, r, key.id)
		}
		return stream.Send(res)
	}
}

// outerKeys returns the keys that came beside the message.
func outerKeys(ctx context.Context, r *route, info *connect.CallInfo) []candidate {
	var keys []candidate
	header := info.RequestHeader()
	for _, text := range header.Values(headerName) {
		keys = append(keys, candidate{source: "header " + headerName, text: text, escaped: true})
	}
	for _, text := range header.Values(headerID) {
		keys = append(keys, candidate{source: "header " + headerID, text: text, isID: true})
	}
	for _, name := range r.typ.KeyHeaders {
		for _, text := range header.Values(name) {
			keys = append(keys, candidate{source: "header " + name, text: text})
		}
	}
	if key, ok := ctx.Value(urlKeyContext{}).(urlKey); ok {
		keys = append(keys, candidate{source: "URL", text: key.text, escaped: true, isID: key.kind == "id"})
	}
	if query, ok := ctx.Value(queryKeyContext{}).([]candidate); ok {
		keys = append(keys, query...)
	}
	return keys
}

// callInfo describes a call from the network to its handler.
func callInfo(r *route, info *connect.CallInfo) *durable.CallInfo {
	call := durable.NewCallInfo(r.method.Procedure, func() http.Header {
		h := http.Header{}
		for key, values := range info.RequestHeader().All() {
			h[key] = append([]string(nil), values...)
		}
		return h
	})
	call.Protocol, call.PeerAddr = info.Protocol, info.PeerAddr
	return call
}

// respond hands the response headers and trailers that the handler set over to
// Connect.
func respond(call *durable.CallInfo, info *connect.CallInfo) {
	header, trailer := call.Response()
	for key, values := range header {
		info.ResponseHeader().SetValues(key, values)
	}
	for key, values := range trailer {
		info.ResponseTrailer().SetValues(key, values)
	}
}

// cacheHeaders keeps answers to GET out of caches, unless the handler says
// otherwise, and tells caches which headers the answer depends on.
func cacheHeaders(ctx context.Context, r *route, info *connect.CallInfo) {
	if h, ok := connecthttp.ServerInfoForContext(ctx); ok && h.HTTPMethod() == http.MethodGet {
		info.ResponseHeader().Set("Cache-Control", "no-store")
		names := append([]string{headerName, headerID}, r.typ.KeyHeaders...)
		info.ResponseHeader().Add("Vary", strings.Join(names, ", "))
	}
}
