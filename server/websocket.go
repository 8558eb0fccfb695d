package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/gorilla/websocket"

	durable "github.com/durable-go/durable"
)

// The subprotocols. Whichever is agreed on, clients may send both kinds of frames.
const (
	subprotocolJSON  = "durable.v1.json"  // one protojson message a text frame
	subprotocolProto = "durable.v1.proto" // one binary message a binary frame
)

const (
	defaultMaxMessage   = 4 << 20  // as of Connect
	maxSocketMessage    = 32 << 20 // whatever the option says
	compressFrom        = 1 << 10  // bytes of a message
	defaultPingInterval = 30 * time.Second
	defaultPingTimeout  = 15 * time.Second
	handshakeTimeout    = 10 * time.Second // to send the response
	firstMessageTimeout = 30 * time.Second
	pongTimeout         = 5 * time.Second // to send it
	closeTimeout        = 5 * time.Second // to send the close frame, and again for that of the peer
)

// sockets serves hibernatable methods over WebSockets.
type sockets struct {
	s          *Server
	dispatch   *connect.Server
	upgrader   websocket.Upgrader
	json       *connectproto.JSONCodec
	proto      *connectproto.BinaryCodec
	maxMessage int64
	ping       pings
	origins    []string
}

func (s *Server) newSockets(dispatch *connect.Server) *sockets {
	g := &sockets{
		s:        s,
		dispatch: dispatch,
		upgrader: websocket.Upgrader{
			HandshakeTimeout: handshakeTimeout,
			// Idle connections hold the first, and none of the second. Long messages
			// bypass both.
			ReadBufferSize:    1 << 10,
			WriteBufferSize:   compressFrom + 64,
			WriteBufferPool:   new(sync.Pool),
			EnableCompression: !s.opts.noCompression,
			CheckOrigin:       func(*http.Request) bool { return true }, // serve did
			Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
				refuse(w, status, strings.TrimPrefix(reason.Error(), "websocket: "))
			},
		},
		json:       connectproto.NewJSONCodec(),
		proto:      connectproto.NewBinaryCodec(),
		maxMessage: int64(min(s.opts.maxMessage, maxSocketMessage)),
		ping:       pings{s.opts.pingInterval, s.opts.pingTimeout},
	}
	if s.opts.strictJSON {
		g.json = strictJSON()
	}
	if g.maxMessage <= 0 {
		g.maxMessage = defaultMaxMessage
	}
	if g.ping.interval == 0 {
		g.ping.interval = defaultPingInterval
	}
	g.ping.interval = max(g.ping.interval, 0)
	if g.ping.timeout == 0 {
		g.ping.timeout = defaultPingTimeout
	}
	for _, text := range s.opts.origins {
		origin, _ := parseOrigin(text) // checked by New
		g.origins = append(g.origins, origin)
	}
	return g
}

// serve answers a GET of a hibernatable method. What a handshake shows to be wrong
// gets a status; everything else happens once the WebSocket is open, and gets a
// close code.
func (g *sockets) serve(w http.ResponseWriter, req *http.Request, r *route) {
	if !req.ProtoAtLeast(1, 1) || req.ProtoMajor != 1 || !websocket.IsWebSocketUpgrade(req) {
		w.Header().Set("Upgrade", "websocket")
		refuse(w, http.StatusUpgradeRequired, "a GET of "+r.method.Procedure+" is for WebSockets: it needs the headers of a WebSocket handshake, over HTTP/1.1")
		return
	}
	if version := req.Header.Values("Sec-Websocket-Version"); !slices.Equal(version, []string{"13"}) {
		w.Header().Set("Sec-WebSocket-Version", "13")
		refuse(w, http.StatusUpgradeRequired, fmt.Sprintf("the WebSocket version %q is not served: use 13", strings.Join(version, ", ")))
		return
	}
	if origin, ok := g.foreign(req); !ok {
		refuse(w, http.StatusForbidden, fmt.Sprintf("pages of the origin %q may not connect to %q", origin, req.Host))
		return
	}
	subprotocol, err := chooseSubprotocol(req.Header)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	query, err := queryKeys(req.URL)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx := context.WithValue(context.WithoutCancel(req.Context()), queryKeyContext{}, query)
	info := &connect.CallInfo{Spec: spec(r.method), PeerAddr: req.RemoteAddr, Protocol: "websocket", Codec: connect.CodecNameJSON}
	if subprotocol == subprotocolProto {
		info.Codec = connect.CodecNameProto
	}
	for name, values := range req.Header {
		info.RequestHeader().SetValues(name, slices.Clone(values))
	}
	if err := g.refuseCall(ctx, r, info); err != nil {
		refuse(w, http.StatusBadRequest, wireError(err, r, durable.ID{}).Message())
		return
	}
	if !g.s.addSocket() {
		refuse(w, http.StatusServiceUnavailable, wireError(durable.ErrDraining, r, durable.ID{}).Message())
		return
	}
	p := &socket{group: g, route: r, binary: info.Codec == connect.CodecNameProto}
	if !p.upgrade(w, req, subprotocol) {
		g.s.removeSocket()
		return
	}
	// Not this goroutine: that of an HTTP connection holds more memory.
	go p.run(context.WithValue(ctx, socketContext{}, p), info)
}

// refuseCall returns what is wrong with a call as far as it can be told before the
// first message.
func (g *sockets) refuseCall(ctx context.Context, r *route, info *connect.CallInfo) error {
	if err := r.keyless(info.RequestHeader().Values(durable.IdempotencyKeyHeader), nil); err != nil {
		return err
	}
	k, err := r.outer(outerKeys(ctx, r, info))
	if err == nil && k.where == "" && r.method.KeyField == nil && len(g.s.opts.interceptors) == 0 { // which may set headers
		_, err = r.missing()
	}
	return err
}

// refuse answers a handshake. reason is for people.
func refuse(w http.ResponseWriter, status int, reason string) { http.Error(w, reason, status) }

// chooseSubprotocol returns that of ours which the client likes best, and none
// where it offers none.
func chooseSubprotocol(header http.Header) (string, error) {
	offered := strings.Split(strings.Join(header.Values("Sec-Websocket-Protocol"), ","), ",")
	for i, name := range offered {
		if offered[i] = strings.TrimSpace(name); offered[i] == subprotocolJSON || offered[i] == subprotocolProto {
			return offered[i], nil
		}
	}
	if len(offered) > 1 || offered[0] != "" {
		return "", fmt.Errorf("none of the subprotocols %q is served: offer %s or %s, or none for the first", offered, subprotocolJSON, subprotocolProto)
	}
	return "", nil
}

type queryKeyContext struct{}

// queryKeys returns the keys in the query of a URL.
func queryKeys(u *url.URL) ([]candidate, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the query of the URL: %w", err)
	}
	var keys []candidate
	for _, text := range query["name"] {
		keys = append(keys, candidate{source: "query parameter name", text: text})
	}
	for _, text := range query["id"] {
		keys = append(keys, candidate{source: "query parameter id", text: text, isID: true})
	}
	return keys, nil
}

// anyOrigin allows the pages of every origin.
const anyOrigin = "*"

// foreign returns the origin of the page that connects, and whether that is
// allowed: the server's own is, and those of the options are. Programs send none.
func (g *sockets) foreign(req *http.Request) (origin string, ok bool) {
	values := req.Header.Values("Origin")
	origin = strings.Join(values, ", ")
	if len(values) == 0 || slices.Contains(g.origins, anyOrigin) {
		return origin, true
	}
	parsed, err := parseOrigin(origin)
	if err != nil {
		return origin, false
	}
	scheme, host, _ := strings.Cut(parsed, "://")
	return origin, host == withoutPort(scheme, req.Host) || slices.Contains(g.origins, parsed)
}

// parseOrigin returns an origin in the form in which origins are compared: RFC
// 6454 section 5.
func parseOrigin(text string) (string, error) {
	if text == anyOrigin {
		return text, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" || strings.Contains(u.Host, "*") || !strings.EqualFold(text, u.Scheme+"://"+u.Host) {
		return "", fmt.Errorf("%q is not an origin, such as https://app.example.com, nor %q for all", text, anyOrigin)
	}
	scheme := strings.ToLower(u.Scheme)
	return scheme + "://" + withoutPort(scheme, u.Host), nil
}

// withoutPort returns a host in lower case, without the port that its scheme
// implies.
func withoutPort(scheme, host string) string {
	host = strings.ToLower(host)
	switch scheme {
	case "http":
		return strings.TrimSuffix(host, ":80")
	case "https":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}

// upgrade makes the connection of req a WebSocket. Otherwise it has answered.
func (p *socket) upgrade(w http.ResponseWriter, req *http.Request, subprotocol string) bool {
	header := http.Header{}
	if subprotocol != "" {
		header.Set("Sec-WebSocket-Protocol", subprotocol)
	}
	upgrader := &p.group.upgrader
	extensions := strings.Join(req.Header.Values("Sec-Websocket-Extensions"), ",")
	if upgrader.EnableCompression && strings.Contains(extensions, "server_max_window_bits") {
		without := *upgrader // compress/flate cannot keep to a smaller window
		without.EnableCompression, upgrader = false, &without
	}
	p.conn.patience = p.route.typ.Limits.SendTimeout
	ws, err := upgrader.Upgrade(hijacker{w, &p.conn}, req, header)
	if err != nil {
		return false
	}
	p.ws, p.conn.ws = ws, ws
	p.conn.ping = p.group.ping
	p.conn.frames.limit = p.group.maxMessage
	p.conn.frames.deflate = upgrader.EnableCompression && strings.Contains(extensions, "permessage-deflate")
	ws.SetCloseHandler(func(int, string) error { return nil }) // the Close handler of the object comes first
	ws.SetPingHandler(func(data string) error {
		p.conn.control(websocket.PongMessage, []byte(data), time.Now().Add(pongTimeout))
		return p.conn.err
	})
	return true
}

// A hijacker hands out the connection of an HTTP request as a [socketConn].
type hijacker struct {
	http.ResponseWriter
	conn *socketConn
}

// Hijack implements [http.Hijacker].
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffers, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, errors.Join(errors.New("the connection cannot become a WebSocket"), err)
	}
	h.conn.Conn = conn
	return h.conn, buffers, nil
}

// addSocket counts a WebSocket in. It reports whether the server takes any.
func (s *Server) addSocket() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.draining {
		return false
	}
	s.mu.sockets++
	return true
}

// removeSocket counts a WebSocket out.
func (s *Server) removeSocket() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.sockets--; s.mu.sockets == 0 && s.mu.noSockets != nil {
		close(s.mu.noSockets)
		s.mu.noSockets = nil
	}
}

// awaitSockets returns when every WebSocket is closed, or ctx ends. The server
// drains: no more come.
func (s *Server) awaitSockets(ctx context.Context) {
	s.mu.Lock()
	if s.mu.sockets == 0 {
		s.mu.Unlock()
		return
	}
	if s.mu.noSockets == nil {
		s.mu.noSockets = make(chan struct{})
	}
	none := s.mu.noSockets
	s.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}

// WithWebSocketOrigins allows pages of these origins, such as
// "https://app.example.com", to open WebSockets; "*" allows those of every origin.
// A page may always connect to the host and port that it came from, and so may
// what sends no header Origin, as browsers do and other programs need not. [New]
// fails for what is not an origin.
func WithWebSocketOrigins(origins ...string) Option {
	return option(func(o *options) { o.origins = append(o.origins, origins...) })
}

// WithWebSocketPing sets after what time of silence the peer of a WebSocket gets a
// ping, and how long after that it is taken to be gone when still nothing came
// from it. Defaults, and where one is 0: 30 and 15 seconds. A negative interval
// sends none: then only the network tells that a peer is gone. [New] fails for a
// negative timeout.
func WithWebSocketPing(interval, timeout time.Duration) Option {
	return option(func(o *options) { o.pingInterval, o.pingTimeout = interval, timeout })
}

// WithoutWebSocketCompression does not compress the messages of WebSockets.
// Default: those from 1 KiB up are, where the client offers permessage-deflate.
func WithoutWebSocketCompression() Option {
	return option(func(o *options) { o.noCompression = true })
}

// checkSockets checks the options of WebSockets.
func (o *options) checkSockets() error {
	for _, origin := range o.origins {
		if _, err := parseOrigin(origin); err != nil {
			return err
		}
	}
	if o.pingTimeout < 0 {
		return fmt.Errorf("the timeout of pings is negative: %v", o.pingTimeout)
	}
	return nil
}
