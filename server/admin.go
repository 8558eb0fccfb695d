package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"connectrpc.com/grpchealth"

	durable "github.com/durable-go/durable"
	adminv1 "github.com/durable-go/durable/gen/durable/admin/v1"
	"github.com/durable-go/durable/gen/durable/admin/v1/adminv1connect"
	"github.com/durable-go/durable/internal/actor"
)

// MinAdminTokenBytes is the length of the shortest token that the admin service
// can be put behind.
const MinAdminTokenBytes = 16

// WithAdminToken serves durable.admin.v1.AdminService on [Server.Handler], beside
// the objects, to calls with the header "Authorization: Bearer" and the token.
// All others get code unauthenticated. Interceptors do not see its calls. Whoever
// has the token can read and delete everything. [New] fails for a token that is
// shorter than [MinAdminTokenBytes], or has other characters than visible ASCII.
// Default: the handler does not know the service. See [Server.AdminHandler] for a
// listener of its own.
func WithAdminToken(token string) Option {
	return option(func(o *options) { o.adminToken = &token })
}

// An AdminOption configures [Server.AdminHandler].
type AdminOption interface{ applyToAdmin(*adminOptions) }

type adminOptions struct{ token *string }

type adminOption func(*adminOptions)

func (f adminOption) applyToAdmin(o *adminOptions) { f(o) }

// RequireToken makes an admin handler take calls only with the header
// "Authorization: Bearer" and the token, by the rules of [WithAdminToken]. Health
// stays open. Default: whoever reaches the handler can use it.
func RequireToken(token string) AdminOption {
	return adminOption(func(o *adminOptions) { o.token = &token })
}

// AdminHandler returns a handler of durable.admin.v1.AdminService, with health and
// reflection and without the objects, for a listener that only operators reach:
// it can read and delete everything. It knows the types registered at the time of
// each call. It fails for a token that [RequireToken] refuses.
func (s *Server) AdminHandler(opts ...AdminOption) (http.Handler, error) {
	var o adminOptions
	for _, opt := range opts {
		opt.applyToAdmin(&o)
	}
	if err := checkAdminToken(o.token); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(adminPath, guard(o.token, s.adminService()))
	services := []string{adminv1connect.AdminServiceName, grpchealth.HealthV1ServiceName}
	s.mountHealth(mux, services)
	reflection := http.NewServeMux()
	s.mountReflection(reflection, services)
	reflection.HandleFunc("/", unknownService)
	mux.Handle("/", guard(o.token, reflection))
	return mux, nil
}

// adminPath is the pattern of every path of the admin service.
const adminPath = "/" + adminv1connect.AdminServiceName + "/"

// adminService returns the handler of the service alone.
func (s *Server) adminService() http.Handler {
	dispatch := connect.NewServer()
	adminv1connect.RegisterAdminServiceHandler(dispatch, admin{s})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, dispatch, connecthttp.WithCodecs(connectproto.NewBinaryCodec(), strictJSON()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

// checkAdminToken returns an error that does not tell the token. A nil token,
// which is none, is all right.
func checkAdminToken(token *string) error {
	if token == nil {
		return nil
	}
	if len(*token) < MinAdminTokenBytes {
		return fmt.Errorf("the admin token has %d bytes, and must have at least %d", len(*token), MinAdminTokenBytes)
	}
	for _, c := range []byte(*token) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("the admin token has the byte 0x%02x: it must be visible ASCII", c)
		}
	}
	return nil
}

// guard lets requests with the token through to next, and all where there is no
// token.
func guard(token *string, next http.Handler) http.Handler {
	if token == nil {
		return next
	}
	want := sha256.Sum256([]byte(*token))
	answer := connecthttp.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(shown)) // so that not even the length tells
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && strings.EqualFold(scheme, "Bearer") {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("WWW-Authenticate", "Bearer")
		_ = answer.Write(w, r, connect.NewError(connect.CodeUnauthenticated, "the admin service takes calls with its token only, in the header Authorization: Bearer"))
	})
}

// admin implements the service.
type admin struct{ s *Server }

var _ adminv1connect.AdminServiceHandler = admin{}

// ListObjectTypes implements [adminv1connect.AdminServiceHandler].
func (a admin) ListObjectTypes(context.Context, *adminv1.ListObjectTypesRequest) (*adminv1.ListObjectTypesResponse, error) {
	res := &adminv1.ListObjectTypesResponse{}
	for _, typ := range a.s.typesByName() {
		t := &adminv1.ObjectType{Name: typ.Name, Service: string(typ.Service.FullName())}
		for _, alarm := range typ.Alarms {
			t.Alarms = append(t.Alarms, &adminv1.AlarmType{Name: alarm.Name, Payload: payloadName(&alarm)})
		}
		res.Types = append(res.Types, t)
	}
	return res, nil
}

// EvictObject implements [adminv1connect.AdminServiceHandler].
func (a admin) EvictObject(ctx context.Context, req *adminv1.EvictObjectRequest) (*adminv1.EvictObjectResponse, error) {
	o, err := a.object(req)
	if err != nil {
		return nil, err
	}
	was, err := a.s.host.Evict(ctx, o.typ, o.id)
	if err = a.changed(ctx, "evict", o, was, err); err != nil {
		return nil, err
	}
	return &adminv1.EvictObjectResponse{Evicted: was}, nil
}

// maxReasonBytes limits the text that the callers of an object get when it is
// aborted.
const maxReasonBytes = 1024

// AbortObject implements [adminv1connect.AdminServiceHandler].
func (a admin) AbortObject(ctx context.Context, req *adminv1.AbortObjectRequest) (*adminv1.AbortObjectResponse, error) {
	o, err := a.object(req)
	if err != nil {
		return nil, err
	}
	if n := len(req.GetReason()); n > maxReasonBytes {
		return nil, invalid("the reason has %d bytes, the limit is %d", n, maxReasonBytes)
	}
	was, err := a.s.host.Abort(ctx, o.typ, o.id, req.GetReason())
	if err = a.changed(ctx, "abort", o, was, err, "reason", req.GetReason()); err != nil {
		return nil, err
	}
	return &adminv1.AbortObjectResponse{Aborted: was}, nil
}

// DeleteObject implements [adminv1connect.AdminServiceHandler].
func (a admin) DeleteObject(ctx context.Context, req *adminv1.DeleteObjectRequest) (*adminv1.DeleteObjectResponse, error) {
	o, err := a.object(req)
	if err != nil {
		return nil, err
	}
	was, err := a.s.host.Delete(ctx, o.typ, o.id)
	if err = a.changed(ctx, "delete", o, was, err); err != nil {
		return nil, err
	}
	return &adminv1.DeleteObjectResponse{Deleted: was}, nil
}

// A target is the object that a request is for.
type target struct {
	typ  *actor.Type
	id   durable.ID
	name string // empty when the request has the id
}

// object finds the object that a request names. It need not exist.
func (a admin) object(req interface {
	GetType() string
	GetName() string
	GetId() string
},
) (target, error) {
	typ, err := a.objectType(req.GetType())
	if err != nil {
		return target{}, err
	}
	o := target{typ: typ, name: req.GetName()}
	switch {
	case o.name != "":
		if err = durable.CheckName(o.name); err == nil {
			o.id = durable.IDFromName(typ.Name, o.name)
		}
	case req.GetId() != "":
		o.id, err = durable.ParseID(typ.Name, req.GetId())
	default:
		err = &durable.KeyError{Problem: durable.KeyMissing, Detail: "the request does not say which object it is for: set name or id"}
	}
	if err != nil {
		return target{}, o.answer(err)
	}
	return o, nil
}

// objectType finds the type that a request names.
func (a admin) objectType(name string) (*actor.Type, error) {
	if name == "" {
		return nil, invalid("the request does not say which object type it is for: set type")
	}
	typ, err := a.s.typeNamed(name)
	if err != nil {
		return nil, connect.Errorf(connect.CodeNotFound, "the server has no object type %q", name)
	}
	return typ, nil
}

// answer returns err as the caller sees it.
func (o target) answer(err error) *connect.Error {
	return wireError(err, &route{typ: o.typ}, o.id)
}

// changed logs a call that was to change an object, and returns its error as the
// caller sees it. changed is whether there was something to change.
func (a admin) changed(ctx context.Context, what string, o target, changed bool, err error, attrs ...any) error {
	var answer error
	if err != nil {
		answer = o.answer(err)
	}
	if log := a.s.opts.logger; log != nil {
		all := []any{"change", what, "type", o.typ.Name, "id", o.id.String(), "name", o.name, "peer", peer(ctx)}
		all = append(all, attrs...)
		if err != nil {
			all = append(all, "error", err.Error())
		} else {
			all = append(all, "changed", changed)
		}
		log.InfoContext(ctx, "admin change", all...)
	}
	return answer
}

// peer returns the address of the caller.
func peer(ctx context.Context) string {
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		return info.PeerAddr
	}
	return ""
}

func invalid(format string, args ...any) *connect.Error {
	return connect.Errorf(connect.CodeInvalidArgument, format, args...)
}
