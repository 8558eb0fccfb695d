package actor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// ExportSQL writes the SQL database of an object to w as a SQLite file and
// returns its length. It shows the state of one moment, beside the turns of the
// object, and only what is durable.
func (h *Host) ExportSQL(ctx context.Context, typ *Type, id durable.ID, w io.Writer) (int64, error) {
	if h.sql == nil {
		return 0, durable.ErrNoSQL
	}
	if err := h.start(false); err != nil {
		return 0, err
	}
	defer h.finish()
	o := h.object(typ, id, "")
	defer h.release(o)
	shard, err := h.shard(ctx, o.shardID)
	if err != nil {
		return 0, err
	}
	snapshot, err := shard.Snapshot(ctx)
	if err != nil {
		return 0, readFailed("export", err)
	}
	defer snapshot.Close()
	if err := o.wait(ctx); err != nil {
		return 0, err
	}
	if err := h.confirm(ctx, shard); err != nil {
		return 0, err
	}
	n, err := h.sql.Export(ctx, o.id, snapshot, w)
	if err != nil {
		return n, exportFailed(err)
	}
	return n, nil
}

// wait returns when everything that the object has committed is durable.
func (o *object) wait(ctx context.Context) error {
	o.mu.Lock()
	last := o.last
	o.mu.Unlock()
	if last == nil {
		return nil
	}
	select {
	case <-last.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if _, err := last.Resolved(); err != nil {
		return commitFailed(err)
	}
	return nil
}

// ImportSQL makes a SQLite file the SQL database of an object that has none,
// after the turns that came before and with no turn beside it. The object is
// dropped from memory, so that its next turn sees what was imported. When it
// returns nil, all of it is durable.
func (h *Host) ImportSQL(ctx context.Context, typ *Type, id durable.ID, name string, src io.Reader) error {
	if h.sql == nil {
		return durable.ErrNoSQL
	}
	if err := h.start(false); err != nil {
		return err
	}
	defer h.finish()
	o := h.object(typ, id, name)
	defer h.release(o)
	if _, err := o.enter(ctx, wish{access: exclusive}); err != nil {
		return err
	}
	defer o.leave(exclusive)
	if act := o.settled(); act != nil {
		o.retire(act)
	}
	if err := o.wait(ctx); err != nil {
		return err
	}
	stored, err := o.load(ctx)
	if err != nil {
		return err
	}
	shard, existed := stored.shard, stored.exists
	meta := storage.Meta{Name: name, Created: time.Now()}
	commit := func(b *storage.Batch) error {
		b.Object = o.id
		b.Create = &meta
		if existed {
			b.Create = nil
		}
		return o.commitAlone(ctx, shard, b)
	}
	begun := false
	err = h.sql.Import(ctx, o.id, shard, sqlLimits(&typ.Limits.SQL), src, func(b *storage.Batch) error {
		begun = true
		return commit(b)
	})
	if err == nil || !begun {
		return exportFailed(err)
	}
	undo := &storage.Batch{Object: o.id, Wipe: !existed}
	if existed {
		undo.Drop = []storage.Range{{Lo: []byte{storage.SQLSpace}, Hi: []byte{storage.SQLSpace + 1}}}
	}
	return errors.Join(exportFailed(err), o.commitAlone(context.WithoutCancel(ctx), shard, undo))
}

// commitAlone commits a batch outside of turns and waits until it is durable.
func (o *object) commitAlone(ctx context.Context, shard *shardHandle, b *storage.Batch) error {
	pending := shard.Commit(b)
	if resolved, err := pending.Resolved(); resolved && err != nil {
		return err
	}
	o.mu.Lock()
	o.last, o.confirmed = pending, pending
	o.mu.Unlock()
	return o.wait(ctx)
}

// exportFailed returns an error of the SQL engine as callers see it.
func exportFailed(err error) error {
	var e *storage.SQLError
	switch {
	case err == nil:
		return nil
	case notOwner(err):
		return readFailed("sql", err)
	case errors.Is(err, storage.ErrSQLExists):
		return fmt.Errorf("import: %w", durable.ErrSQLExists)
	case errors.As(err, &e):
		out := durable.SQLError(*e)
		return &out
	}
	return err
}
