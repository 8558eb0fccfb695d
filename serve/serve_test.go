package serve_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/serve"
	"github.com/durable-go/durable/storage"
)

// A process is a server that runs in the test's process.
type process struct {
	url    string
	stop   context.CancelFunc
	done   chan struct{}
	err    error // when done
	stdout output
	stderr output
}

type output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.wrote <- struct{}{}:
	default:
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

var address = regexp.MustCompile(`serves (https?://[0-9.:]+) `)

// run starts a server on a free port of the loopback.
func run(t *testing.T, register func(durable.Registrar) error, args ...string) *process {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &process{stop: stop, done: make(chan struct{})}
	p.stdout.wrote, p.stderr.wrote = make(chan struct{}, 1), make(chan struct{}, 1)
	go func() {
		defer close(p.done)
		p.err = serve.Run(ctx, "lab", append([]string{"--listen", "127.0.0.1:0"}, args...), &p.stdout, &p.stderr, register)
	}()
	t.Cleanup(func() {
		stop()
		<-p.done
	})
	for {
		select {
		case <-p.stdout.wrote:
		case <-p.done:
			return p
		}
		if m := address.FindStringSubmatch(p.stdout.String()); m != nil {
			p.url = m[1]
			return p
		}
	}
}

// running fails the test unless the server serves.
func (p *process) running(t *testing.T) *process {
	t.Helper()
	if p.url == "" {
		t.Fatalf("the server does not run: %v\n%s", p.err, p.stderr.String())
	}
	return p
}

// end stops the server as SIGTERM does and returns what Run returned.
func (p *process) end() error {
	p.stop()
	<-p.done
	return p.err
}

func h2c() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

func appendText(ctx context.Context, conn durable.Conn, text string, sleep time.Duration) (int64, error) {
	res, err := labv1durable.NewRecorderClient(conn).GetByName("a").Append(ctx, &labv1.AppendRequest{Text: text, SleepMs: sleep.Milliseconds()})
	return res.GetNumber(), err
}

func TestRun(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "folder")
	for i := range 2 { // the second finds what the first left
		p := run(t, lab.Register, "--data", dir).running(t)
		for _, conn := range []durable.Conn{
			durableconnect.New(http.DefaultClient, p.url, connecthttp.WithProtoJSON()),
			durableconnect.New(h2c(), p.url),
			durableconnect.New(h2c(), p.url, connecthttp.WithGRPC()),
		} {
			if _, err := appendText(t.Context(), conn, "x", 0); err != nil {
				t.Error(err)
			}
		}
		number, err := appendText(t.Context(), durableconnect.New(h2c(), p.url), "x", 0)
		if err != nil || number != int64(4*(i+1)) {
			t.Errorf("number %d, error %v", number, err)
		}
		if err := p.end(); err != nil {
			t.Errorf("run %d: %v\n%s", i, err, p.stderr.String())
		}
		out := p.stdout.String()
		for _, want := range []string{"lab serves http://127.0.0.1:", dir, "curl ", "grpcurl -plaintext ", "lab.v1.CounterService/Increment"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in the output:\n%s", want, out)
			}
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := run(t, lab.Register, "--data", dir).running(t)
	for _, opts := range [][]connecthttp.Option{nil, {connecthttp.WithGRPC()}} {
		conn := durableconnect.New(h2c(), p.url, opts...)
		if _, err := appendText(t.Context(), conn, "before", 0); err != nil {
			t.Fatal(err)
		}
	}
	conn := durableconnect.New(h2c(), p.url)
	stream, err := labv1durable.NewRecorderClient(conn).GetByName("b").Tail(t.Context(), &labv1.TailRequest{Texts: []string{"x"}, Hang: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}
	slow := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		// A stream whose update is under way when the server is told to stop.
		close(started)
		_, err := appendText(context.Background(), conn, "slow", 300*time.Millisecond)
		slow <- err
	}()
	<-started
	for { // until the slow call holds the turn
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := labv1durable.NewRecorderClient(conn).GetByName("a").ReadAll(ctx, &labv1.ReadAllRequest{})
		cancel()
		if connect.CodeOf(err) == connect.CodeDeadlineExceeded {
			break
		}
	}
	if err := p.end(); err != nil {
		t.Errorf("run: %v\n%s", err, p.stderr.String())
	}
	if err := <-slow; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("the open stream: %v", err)
	}
	if _, err := appendText(t.Context(), conn, "late", 0); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a call afterwards: %v", err)
	}
	p = run(t, lab.Register, "--data", dir).running(t)
	if number, err := appendText(t.Context(), durableconnect.New(h2c(), p.url), "after", 0); err != nil || number != 4 {
		t.Errorf("number %d, error %v", number, err)
	}
}

// TestStuckHandler: a handler that ignores its context, inside a listing even,
// delays the end and does not prevent it.
func TestStuckHandler(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := run(t, lab.Register, "--data", dir).running(t)
	if _, err := appendText(t.Context(), durableconnect.New(h2c(), p.url), "stored", 0); err != nil {
		t.Fatal(err)
	}
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	stuck, release, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	l := &lab.Lab{Constructor: func(ctx context.Context, tx durable.Tx) error {
		for range tx.KV().List(ctx) {
			close(stuck)
			<-release
			break
		}
		close(left)
		return nil
	}}
	ctx, stop := context.WithCancel(t.Context())
	var stdout, stderr output
	stdout.wrote, stderr.wrote = make(chan struct{}, 1), make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- serve.RunWithin(ctx, 200*time.Millisecond, 200*time.Millisecond, "lab",
			[]string{"--listen", "127.0.0.1:0", "--data", dir}, &stdout, &stderr, l.Register)
	}()
	var url string
	for url == "" {
		<-stdout.wrote
		if m := address.FindStringSubmatch(stdout.String()); m != nil {
			url = m[1]
		}
	}
	cut := make(chan error, 1)
	go func() {
		_, err := appendText(context.Background(), durableconnect.New(h2c(), url), "x", 0)
		cut <- err
	}()
	<-stuck
	stop()
	err := <-done
	for _, want := range []string{"calls are still under way", "did not close within"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := <-cut; err == nil {
		t.Error("the call that was cut off succeeded")
	}
	close(release)
	<-left
}

// TestMain lets a test run a server in a process of its own.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SERVE_TEST_DATA"); dir != "" {
		os.Args = []string{"lab", "--listen", "127.0.0.1:0", "--data", dir}
		l := &lab.Lab{Constructor: func(context.Context, durable.Tx) error { select {} }}
		serve.Main(l.Register)
	}
	os.Exit(m.Run())
}

func TestSecondSignalKills(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "SERVE_TEST_DATA="+t.TempDir())
	var stdout, stderr output
	stdout.wrote, stderr.wrote = make(chan struct{}, 1), make(chan struct{}, 1)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var url string
	for url == "" {
		<-stdout.wrote
		if m := address.FindStringSubmatch(stdout.String()); m != nil {
			url = m[1]
		}
	}
	conn := durableconnect.New(h2c(), url)
	for { // until a call is under way that never ends
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := appendText(ctx, conn, "x", 0)
		cancel()
		if connect.CodeOf(err) == connect.CodeDeadlineExceeded {
			break
		}
	}
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(stderr.String(), "draining") {
		<-stderr.wrote
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(began); took > serve.DrainTimeout/2 {
		t.Errorf("it took %v", took)
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":             {[]string{"--colour", "red"}, "flag provided but not defined"},
		"an argument":              {[]string{"serve"}, `unexpected argument "serve"`},
		"bad level":                {[]string{"--log-level", "loud"}, "invalid value"},
		"certificate alone":        {[]string{"--tls-cert", "x"}, "go together"},
		"key alone":                {[]string{"--tls-key", "x"}, "go together"},
		"admin, for everybody":     {[]string{"--admin-listen", "0.0.0.0:0"}, "needs --admin-token-file"},
		"admin, without a host":    {[]string{"--admin-listen", ":0"}, "needs --admin-token-file"},
		"admin, on a bad address":  {[]string{"--admin-listen", "127.0.0.1:nope"}, "--admin-listen 127.0.0.1:nope"},
		"admin token alone":        {[]string{"--admin-token-file", os.Args[0]}, "needs --admin-listen"},
		"missing admin token":      {[]string{"--admin-listen", "127.0.0.1:0", "--admin-token-file", "/nowhere/t"}, "read the admin token"},
		"empty admin token":        {[]string{"--admin-listen", "127.0.0.1:0", "--admin-token-file", os.DevNull}, "at least 16"},
		"authorities alone":        {[]string{"--tls-client-ca", "x"}, "needs --tls-cert"},
		"missing certificate":      {[]string{"--tls-cert", "/nowhere/c", "--tls-key", "/nowhere/k"}, "read the certificate"},
		"bad address":              {[]string{"--listen", "127.0.0.1:nope"}, "listen tcp"},
		"a file where the data is": {[]string{"--data", os.Args[0]}, "open store"},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, lab.Register, append([]string{"--data", t.TempDir()}, c.args...)...)
			<-p.done
			if p.err == nil || !strings.Contains(p.err.Error(), c.want) {
				t.Errorf("error %v, want %q", p.err, c.want)
			}
			if strings.Contains(p.stdout.String(), "serves") {
				t.Errorf("it said that it serves:\n%s", p.stdout.String())
			}
		})
	}
	t.Run("help", func(t *testing.T) {
		p := run(t, lab.Register, "--help")
		<-p.done
		if !errors.Is(p.err, flag.ErrHelp) {
			t.Errorf("error %v", p.err)
		}
		for _, name := range []string{"-listen", "-data", "-tls-cert", "-tls-key", "-tls-client-ca", "-admin-listen", "-admin-token-file", "-log-level", "-strict-json"} {
			if !strings.Contains(p.stderr.String(), name) {
				t.Errorf("%s is not explained", name)
			}
		}
	})
}

func TestDataFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("a registration that fails frees it", func(t *testing.T) {
		boom := errors.New("boom")
		p := run(t, func(durable.Registrar) error { return boom }, "--data", dir)
		<-p.done
		if !errors.Is(p.err, boom) {
			t.Errorf("error %v", p.err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		first := run(t, lab.Register, "--data", dir).running(t)
		second := run(t, lab.Register, "--data", dir)
		<-second.done
		if !errors.Is(second.err, storage.ErrLocked) || !strings.Contains(second.err.Error(), dir) {
			t.Errorf("error %v", second.err)
		}
		if err := first.end(); err != nil {
			t.Error(err)
		}
		if err := run(t, lab.Register, "--data", dir).running(t).end(); err != nil {
			t.Errorf("when it is free again: %v", err)
		}
	})
	t.Run("of a newer format", func(t *testing.T) {
		raiseFormat(t, dir)
		p := run(t, lab.Register, "--data", dir)
		<-p.done
		if !errors.Is(p.err, storage.ErrNewerFormat) || !strings.Contains(p.err.Error(), dir) {
			t.Errorf("error %v", p.err)
		}
	})
}

func TestStrictJSON(t *testing.T) {
	t.Parallel()
	p := run(t, lab.Register, "--data", t.TempDir(), "--strict-json").running(t)
	res, err := http.Post(p.url+"/lab.v1.CounterService/Increment", "application/json", strings.NewReader(`{"name":"a","colour":"red"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	panics := func(t *testing.T, level string) string {
		p := run(t, lab.Register, "--data", t.TempDir(), "--log-level", level).running(t)
		_, err := labv1durable.NewRecorderClient(durableconnect.New(h2c(), p.url)).GetByName("a").Misbehave(t.Context(),
			&labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Panic{Panic: "the secret"}})
		if connect.CodeOf(err) != connect.CodeInternal {
			t.Errorf("error %v", err)
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
		return p.stderr.String()
	}
	if log := panics(t, "error"); !strings.Contains(log, "the secret") || strings.Contains(log, "draining") {
		t.Errorf("log of errors:\n%s", log)
	}
	if log := panics(t, "info"); !strings.Contains(log, "draining") {
		t.Errorf("log of infos:\n%s", log)
	}
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// sign returns a certificate and its key, PEM.
func (a authority) sign(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	trusted, stranger := newAuthority(t), newAuthority(t)
	cert, key := trusted.sign(t)
	args := []string{"--tls-cert", file("cert", cert), "--tls-key", file("key", key)}
	// client returns an HTTP/2 client that trusts the server and shows a
	// certificate of by, if any.
	client := func(t *testing.T, by *authority) *http.Client {
		roots := x509.NewCertPool()
		roots.AddCert(trusted.cert)
		config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		if by != nil {
			pair, err := tls.X509KeyPair(by.sign(t))
			if err != nil {
				t.Fatal(err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		protocols := new(http.Protocols)
		protocols.SetHTTP2(true)
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config, Protocols: protocols}}
	}
	calls := func(t *testing.T, p *process, by *authority) error {
		var errs []error
		for _, opts := range [][]connecthttp.Option{nil, {connecthttp.WithGRPC()}} {
			_, err := appendText(t.Context(), durableconnect.New(client(t, by), p.url, opts...), "x", 0)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	t.Run("server certificate", func(t *testing.T) {
		p := run(t, lab.Register, append(args, "--data", t.TempDir())...).running(t)
		if !strings.HasPrefix(p.url, "https://") {
			t.Errorf("url %s", p.url)
		}
		if err := calls(t, p, nil); err != nil {
			t.Error(err)
		}
		if _, err := appendText(t.Context(), durableconnect.New(http.DefaultClient, p.url), "x", 0); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("a client that does not trust it: %v", err)
		}
		res, err := http.Post("http"+strings.TrimPrefix(p.url, "https")+"/lab.v1.CounterService/Increment", "application/json", strings.NewReader(`{"name":"a"}`))
		if err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				t.Errorf("plain text was served: %s", body)
			}
		}
	})
	t.Run("a client that is none is logged", func(t *testing.T) {
		p := run(t, lab.Register, append(args, "--data", t.TempDir())...).running(t)
		c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "this is no TLS at all")
		_ = c.Close()
		for !strings.Contains(p.stderr.String(), "TLS handshake error") {
			<-p.stderr.wrote
		}
		if !strings.Contains(p.stderr.String(), "level=WARN") {
			t.Errorf("log:\n%s", p.stderr.String())
		}
	})
	t.Run("client certificates", func(t *testing.T) {
		p := run(t, lab.Register, append(args, "--data", t.TempDir(), "--tls-client-ca", file("ca", trusted.pem))...).running(t)
		if err := calls(t, p, &trusted); err != nil {
			t.Error(err)
		}
		for name, by := range map[string]*authority{"none": nil, "of a stranger": &stranger} {
			if err := calls(t, p, by); err == nil {
				t.Errorf("%s: the call was served", name)
			}
		}
	})
	t.Run("no authority in the file", func(t *testing.T) {
		p := run(t, lab.Register, append(args, "--data", t.TempDir(), "--tls-client-ca", file("empty", nil))...)
		<-p.done
		if p.err == nil || !strings.Contains(p.err.Error(), "holds no certificate") {
			t.Errorf("error %v", p.err)
		}
	})
	t.Run("a key that is not the certificate's", func(t *testing.T) {
		_, other := trusted.sign(t)
		p := run(t, lab.Register, "--data", t.TempDir(), "--tls-cert", args[1], "--tls-key", file("other", other))
		<-p.done
		if p.err == nil || !strings.Contains(p.err.Error(), "read the certificate") {
			t.Errorf("error %v", p.err)
		}
	})
}

// raiseFormat makes a store look as a newer version would have left it.
func raiseFormat(t *testing.T, dir string) {
	t.Helper()
	markers, err := filepath.Glob(filepath.Join(dir, "marker.format-version.*"))
	if err != nil || len(markers) == 0 {
		t.Fatalf("no format marker in %s: %v", dir, err)
	}
	for _, marker := range markers {
		if err := os.Rename(marker, marker[:strings.LastIndex(marker, ".")]+".999"); err != nil {
			t.Fatal(err)
		}
	}
}
