//go:build conformance

// Command impl is the server that the conformance suite tests.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	conformancev1 "github.com/durable-go/durable/internal/conformance/gen/conformancev1"
	"github.com/durable-go/durable/internal/conformance/gen/conformancev1/conformancev1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	req := new(conformancev1.ServerCompatRequest)
	if err := readMessage(os.Stdin, req); err != nil {
		return err
	}
	engine, err := pebblekv.Open("conformance", pebblekv.Options{FS: vfs.NewMem(), ReserveBytes: -1})
	if err != nil {
		return err
	}
	var opts []server.Option
	if limit := req.GetMessageReceiveLimit(); limit > 0 {
		opts = append(opts, server.WithMaxMessageBytes(int(limit)))
	}
	s, err := server.New(ctx, engine, opts...)
	if err != nil {
		return err
	}
	err = conformancev1durable.RegisterConformance(s,
		func(context.Context, conformancev1durable.ConformanceTx) (conformancev1durable.ConformanceHandler, error) {
			return conformance{}, nil
		},
		durable.WithKeyHeader("x-test-case-name"),
		durable.WithDefaultName("conformance"), // for requests that the suite sends without a name
		durable.WithLimits(durable.Limits{HandlerTimeout: -1}),
		durable.WithPlainErrors(),
	)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := uint32(listener.Addr().(*net.TCPAddr).Port)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: s.Handler(), Protocols: protocols}
	res := &conformancev1.ServerCompatResponse{Host: "127.0.0.1", Port: port}
	if req.GetUseTls() {
		if web.TLSConfig, err = tlsConfig(req); err != nil {
			return err
		}
		res.PemCert = req.GetServerCreds().GetCert()
		listener = tls.NewListener(listener, web.TLSConfig)
	}
	if err := writeMessage(os.Stdout, res); err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		_ = web.Close()
	}()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return errors.Join(s.Close(context.Background()), engine.Close())
}

func tlsConfig(req *conformancev1.ServerCompatRequest) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(req.GetServerCreds().GetCert(), req.GetServerCreds().GetKey())
	if err != nil {
		return nil, err
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	if pem := req.GetClientTlsCert(); len(pem) > 0 {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the client certificate of the suite is no PEM")
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// readMessage reads a message behind its length in four bytes.
func readMessage(r io.Reader, msg proto.Message) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	data := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return proto.Unmarshal(data, msg)
}

func writeMessage(w io.Writer, msg proto.Message) error {
	data, err := proto.Marshal(msg)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}
