package durabletest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A CrashPoint is a point on the way of a commit at which the power can go.
type CrashPoint int

const (
	// BeforeSync is when the log of the store is about to be synced: the commit is
	// lost as a whole, and the call fails.
	BeforeSync CrashPoint = iota + 1
	// AfterSync is when the log is synced, and nobody has heard of that: the commit
	// stays, no reply and nothing else that waited for it has left the object, and
	// the call fails.
	AfterSync
	// BeforeReply is when the commit is durable, what waited for it may go on, and
	// the reply is about to leave the server: the commit stays and the call fails.
	BeforeReply
)

// String returns the name of the point.
func (p CrashPoint) String() string {
	switch p {
	case BeforeSync:
		return "BeforeSync"
	case AfterSync:
		return "AfterSync"
	case BeforeReply:
		return "BeforeReply"
	}
	return fmt.Sprintf("CrashPoint(%d)", int(p))
}

// A crash is to come.
type crash struct {
	point  CrashPoint
	synced atomic.Bool   // a commit has become durable since
	over   chan struct{} // closed when the server runs again
}

// CrashAt takes the power from the server when the next commit, of a call or an
// alarm, comes to that point, and starts it again on what was durable, as after
// kill -9. All calls in flight then fail with code unavailable, as when a
// connection is lost. An earlier commit that nobody waits for counts while it is
// not durable.
//
// The channel is closed when the server runs again. There is no need to wait for
// it: the methods of Server and calls that come after do.
//
// [BeforeReply] takes the first reply that leaves after a commit became durable;
// an alarm has none. With calls side by side, that may be the reply to another
// one. A crash that was asked for before and has not come yet does not come any
// more, nor does one after the test: that one fails it.
func (s *Server) CrashAt(point CrashPoint) <-chan struct{} {
	s.tb.Helper()
	if point < BeforeSync || point > BeforeReply {
		s.tb.Fatalf("durabletest: there is no crash point %d", int(point))
	}
	s.running()
	c := &crash{point: point, over: make(chan struct{})}
	s.armed.Store(c)
	return c.over
}

// Crash takes the power from the server and starts it again: what was not
// durable at the moment of the call is gone. Calls under way fail; it does not
// wait for their handlers.
func (s *Server) Crash() {
	s.tb.Helper()
	s.turnover <- struct{}{}
	defer func() { <-s.turnover }()
	if err := s.fall(s.now.Load()); err != nil {
		s.tb.Fatalf("durabletest: crash: %v", err)
	}
}

// fall takes the power from an incarnation and starts the next on what is
// durable.
func (s *Server) fall(in *incarnation) error {
	in.cut()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = in.close(gone)
	s.client.CloseIdleConnections()
	err := s.start(in.mem.CrashClone(vfs.CrashCloneCfg{}))
	if err != nil {
		in.giveWay()
	}
	return err
}

// due returns the crash that is to come, if it may come now.
func (s *Server) due(in *incarnation) *crash {
	if c := s.armed.Load(); c != nil && in.serving.Load() {
		return c
	}
	return nil
}

// strike makes the crash happen, unless it has already. When it returns true, the
// power is off.
func (s *Server) strike(in *incarnation, c *crash) bool {
	if !s.armed.CompareAndSwap(c, nil) {
		return false
	}
	s.restarts.Add(1)
	in.cut()
	go func() {
		defer s.restarts.Done()
		defer close(c.over)
		s.turnover <- struct{}{}
		defer func() { <-s.turnover }()
		if s.now.Load() != in { // whoever came first has started it again
			return
		}
		if err := s.fall(in); err != nil {
			s.tb.Errorf("durabletest: start again after a crash: %v", err)
		}
	}()
	return true
}

// losesReply makes the crash happen that takes the reply which is about to leave.
func (s *Server) losesReply(in *incarnation) {
	if c := s.due(in); c != nil && c.point == BeforeReply && c.synced.Load() {
		s.strike(in, c)
	}
}

// A power is on until it is off.
type power struct {
	once sync.Once
	off  chan struct{} // closed when it is off
}

func (p *power) isOff() bool {
	select {
	case <-p.off:
		return true
	default:
		return false
	}
}

// cut takes the power: from when it returns, nothing reaches the disk, and
// nothing leaves.
func (in *incarnation) cut() {
	in.power.once.Do(func() {
		close(in.power.off)
		_ = in.web.Close()
	})
}

var errPowerOff = errors.New("the power is off")

// disk is the disk of an incarnation.
func (s *Server) disk(in *incarnation) vfs.FS {
	return disk{FS: errorfs.Wrap(in.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && in.power.isOff() {
			return errPowerOff
		}
		return nil
	})), s: s, in: in}
}

// A disk is a file system that tells when the log of the store is synced.
type disk struct {
	vfs.FS
	s  *Server
	in *incarnation
}

// logCategory is what the store writes its log as.
const logCategory = "pebble-wal"

// Unwrap implements [vfs.FS].
func (d disk) Unwrap() vfs.FS { return d.FS }

// Create implements [vfs.FS].
func (d disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, category)
	return d.watch(f, category, err)
}

// ReuseForWrite implements [vfs.FS].
func (d disk) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(old, name, category)
	return d.watch(f, category, err)
}

func (d disk) watch(f vfs.File, category vfs.DiskWriteCategory, err error) (vfs.File, error) {
	if err != nil || category != logCategory {
		return f, err
	}
	return logFile{f, d}, nil
}

// A logFile is a file of the log.
type logFile struct {
	vfs.File
	disk disk
}

// Sync implements [vfs.File].
func (f logFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements [vfs.File].
func (f logFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f logFile) sync(do func() error) error {
	s, in := f.disk.s, f.disk.in
	c := s.due(in)
	if c == nil {
		return do()
	}
	if c.point == BeforeSync && s.strike(in, c) {
		return errPowerOff
	}
	if err := do(); err != nil {
		return err
	}
	if c.point == AfterSync && s.strike(in, c) {
		return errPowerOff
	}
	c.synced.Store(true)
	return nil
}
