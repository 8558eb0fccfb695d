// Package lab has objects that tests drive from outside: a counter, a recorder
// that misbehaves on request, and others that pass steps on to their handles, to
// their SQL databases, their alarms and their connections.
package lab

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// Register registers every object of the lab.
func Register(r durable.Registrar) error { return new(Lab).Register(r) }

// A Lab registers the objects, with options, and counts what they do.
type Lab struct {
	// Options are the options of every type.
	Options []durable.ObjectOption
	// Constructor, if set, is called by the constructor of every recorder.
	Constructor func(ctx context.Context, tx durable.Tx) error

	// Constructed counts the constructors that ran.
	Constructed atomic.Int64
	// Handled counts the writing methods of recorders that began.
	Handled atomic.Int64

	// Chat says what chat labs do.
	Chat Chat

	alarms alarmScripts
}

// Register registers every object of the lab.
func (l *Lab) Register(r durable.Registrar) error {
	return errors.Join(
		labv1durable.RegisterCounter(r, l.newCounter, l.Options...),
		labv1durable.RegisterRecorder(r, l.newRecorder, l.Options...),
		l.RegisterChat(r),
		labv1durable.RegisterKVLab(r, l.newKVLab, l.Options...),
		labv1durable.RegisterSQLLab(r, l.newSQLLab, l.Options...),
		labv1durable.RegisterAlarmLab(r, l.newAlarmLab, l.Options...),
		labv1durable.RegisterPlain(r, l.newPlain, l.Options...),
		labv1durable.RegisterUnique(r, l.newUnique, l.Options...),
	)
}

func (l *Lab) newCounter(context.Context, labv1durable.CounterTx) (labv1durable.CounterHandler, error) {
	l.Constructed.Add(1)
	return &counter{}, nil
}

func (l *Lab) newPlain(context.Context, labv1durable.PlainTx) (labv1durable.PlainHandler, error) {
	l.Constructed.Add(1)
	return plain{}, nil
}

func (l *Lab) newUnique(context.Context, labv1durable.UniqueTx) (labv1durable.UniqueHandler, error) {
	l.Constructed.Add(1)
	return unique{}, nil
}

// plain tells its key.
type plain struct{}

// Whoami implements [labv1durable.PlainHandler].
func (plain) Whoami(_ context.Context, view labv1durable.PlainView, _ *labv1.WhoamiRequest) (*labv1.WhoamiResponse, error) {
	return &labv1.WhoamiResponse{Id: view.ID().String(), Name: view.Name()}, nil
}

// unique tells its key and exists from the first call on.
type unique struct{}

// Touch implements [labv1durable.UniqueHandler].
func (unique) Touch(ctx context.Context, tx labv1durable.UniqueTx, req *labv1.TouchRequest) (*labv1.TouchResponse, error) {
	if err := tx.KV().Put(ctx, "touched", []byte{}); err != nil {
		return nil, err
	}
	return &labv1.TouchResponse{Id: tx.ID().String(), Name: tx.Name(), Field: req.GetId()}, nil
}

// sleep waits, or returns the error of ctx.
func sleep(ctx context.Context, ms int64) error {
	if ms == 0 {
		return nil
	}
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
