package memkv

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/durable-go/durable/storage"
)

var object1 = storage.ObjectID{Type: 1}

// member is a node that owns the shard of object1.
type member struct {
	*testing.T
	storage.Session
	storage.Shard
}

func join(t *testing.T, s *Store, node storage.NodeID) *member {
	t.Helper()
	n, err := s.Join(t.Context(), storage.Node{ID: node})
	if err != nil {
		t.Fatal(err)
	}
	return &member{T: t, Session: n}
}

// claim reports whether the shard was free.
func (m *member) claim() bool {
	m.Helper()
	got, err := m.Claim(m.Context(), []storage.ShardID{object1.Shard()})
	if err != nil {
		m.Fatal(err)
	}
	if len(got) == 0 {
		return false
	}
	m.Shard = got[0]
	return true
}

func (m *member) put(val string) *storage.Pending {
	return m.Commit(&storage.Batch{
		Object: object1, Create: &storage.Meta{},
		Put: []storage.Pair{{Key: []byte("k"), Val: []byte(val)}},
	})
}

func (m *member) want(val string) {
	m.Helper()
	got, ok, err := m.Get(m.Context(), object1, []byte("k"))
	if string(got) != val || ok != (val != "") || err != nil {
		m.Errorf("value %q, %t, %v, want %q", got, ok, err, val)
	}
}

func (m *member) wantOutcome(p *storage.Pending, want error) {
	m.Helper()
	if ok, err := p.Resolved(); !ok || !errors.Is(err, want) {
		m.Errorf("commit: resolved %t, %v, want %v", ok, err, want)
	}
}

func TestPauseAndCrash(t *testing.T) {
	s := New(Options{})
	a := join(t, s, "a")
	a.claim()
	a.wantOutcome(a.put("1"), nil)
	s.Pause()
	p := a.put("2")
	if ok, _ := p.Resolved(); ok {
		t.Error("durable while paused")
	}
	a.want("2")
	s.Resume()
	a.wantOutcome(p, nil)
	s.Pause()
	p, q := a.put("3"), a.put("4")
	s.Crash()
	a.wantOutcome(p, storage.ErrLost)
	a.wantOutcome(q, storage.ErrLost)
	<-a.Session.Done()
	s.Resume()
	a = join(t, s, "a")
	a.claim()
	a.want("2")
}

func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Lease: 10 * time.Second})
		a, b := join(t, s, "a"), join(t, s, "b")
		a.claim()
		a.wantOutcome(a.put("1"), nil)
		if got := time.Until(a.Lease()); got != 10*time.Second {
			t.Errorf("lease of %v", got)
		}
		s.Cut("a")
		time.Sleep(6 * time.Second)
		if got := time.Until(a.Lease()); got != 4*time.Second {
			t.Errorf("lease of %v without contact", got)
		}
		p := a.put("2")
		if _, _, err := a.Get(t.Context(), object1, nil); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("read without contact: %v", err)
		}
		if b.claim() {
			t.Error("the shard was given away before the lease ran out")
		}
		time.Sleep(5 * time.Second)
		a.wantOutcome(p, storage.ErrLost)
		<-a.Session.Done()
		if !b.claim() {
			t.Fatal("the shard is still taken")
		}
		b.want("1")
		b.wantOutcome(b.put("3"), nil)
		// What the old owner sent arrives now, and the fence refuses it.
		if landed, refused := s.Heal("a"); landed != 0 || refused != 1 {
			t.Errorf("%d landed, %d refused", landed, refused)
		}
		b.want("3")
	})
}

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Lease: 10 * time.Second})
		a := join(t, s, "a")
		a.claim()
		s.Cut("a")
		p := a.put("1")
		time.Sleep(5 * time.Second)
		if landed, refused := s.Heal("a"); landed != 1 || refused != 0 {
			t.Errorf("%d landed, %d refused", landed, refused)
		}
		a.wantOutcome(p, nil)
		time.Sleep(time.Minute)
		a.want("1")
		a.wantOutcome(a.put("2"), nil)
	})
}

// TestLateCommit: a commit may land after its node was told that it is lost, as
// long as nobody else has the shard.
func TestLateCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Lease: time.Second})
		a := join(t, s, "a")
		a.claim()
		s.Cut("a")
		p := a.put("1")
		time.Sleep(2 * time.Second)
		a.wantOutcome(p, storage.ErrLost)
		if landed, _ := s.Heal("a"); landed != 1 {
			t.Error("the late commit did not land")
		}
		b := join(t, s, "b")
		b.claim()
		b.want("1")
	})
}

func TestLoseAck(t *testing.T) {
	s := New(Options{})
	a := join(t, s, "a")
	a.claim()
	s.LoseAck("a")
	a.wantOutcome(a.put("1"), storage.ErrLost)
	<-a.Shard.Done()
	if a.Session.Err() != nil {
		t.Error("the session went with the shard")
	}
	a.wantOutcome(a.put("2"), storage.ErrLost)
	if !a.claim() {
		t.Fatal("the shard is still taken")
	}
	a.want("1")
}

func TestResend(t *testing.T) {
	s := New(Options{})
	a := join(t, s, "a")
	a.claim()
	old := a.Shard
	a.put("1")
	if s.Resend(old) {
		t.Error("a commit was let in twice")
	}
	b := join(t, s, "b")
	if err := a.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.claim()
	b.put("2")
	if s.Resend(old) {
		t.Error("a commit of a stale epoch was let in")
	}
	b.want("2")
}

func TestCommitDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{CommitDelay: 5 * time.Millisecond})
		a := join(t, s, "a")
		a.claim()
		began := time.Now()
		p := a.put("1")
		time.Sleep(2 * time.Millisecond)
		q := a.put("2")
		if p.Wait() != nil || q.Wait() != nil || time.Since(began) != 5*time.Millisecond {
			t.Errorf("durable after %v", time.Since(began))
		}
		r := a.put("3")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		a.wantOutcome(r, nil)
	})
}

func TestFill(t *testing.T) {
	s := New(Options{})
	a := join(t, s, "a")
	a.claim()
	a.put("1")
	s.Fill(true)
	a.wantOutcome(a.put("2"), storage.ErrNoSpace)
	a.want("1")
	s.Fill(false)
	a.wantOutcome(a.put("2"), nil)
}

func TestReleaseWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		a, b := join(t, s, "a"), join(t, s, "b")
		a.claim()
		s.Pause()
		p := a.put("1")
		released := make(chan error, 1)
		go func() { released <- a.Release(t.Context()) }()
		synctest.Wait()
		if b.claim() {
			t.Error("the shard was given away with a commit pending")
		}
		s.Resume()
		if err := <-released; err != nil {
			t.Error(err)
		}
		a.wantOutcome(p, nil)
		if !b.claim() {
			t.Error("the shard is still taken")
		}
		b.want("1")
	})
}
