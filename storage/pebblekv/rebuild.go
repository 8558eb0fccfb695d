package pebblekv

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

// rebuildIndexes makes the listing and the time index anew from the rows of the
// objects, in one durable batch. Nothing may be committed meanwhile.
func (e *Engine) rebuildIndexes() error {
	b := e.db.NewBatch()
	defer func() { _ = b.Close() }()
	namesLo, namesHi := keyspace.AllNames()
	timesLo, timesHi := keyspace.AllTimes()
	err := errors.Join(b.DeleteRange(namesLo, namesHi, nil), b.DeleteRange(timesLo, timesHi, nil))
	if err != nil {
		return err
	}
	err = each(e.db, nil, keyspace.ObjectsEnd, func(k, stored []byte) error {
		o, what, kind, err := keyspace.CutRecord(k)
		if err != nil {
			return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
		}
		if what == keyspace.RecordPair {
			return nil
		}
		val, _, err := patch.Decode(stored)
		if err != nil {
			return readError(err)
		}
		if what == keyspace.RecordMeta {
			m, err := parseMeta(val)
			if err != nil {
				return err
			}
			return b.Set(keyspace.AppendName(nil, o, m.Name), appendTime(nil, m.Created.UnixMilli()), nil)
		}
		due, err := parseTime(val)
		if err != nil {
			return err
		}
		return b.Set(keyspace.AppendTime(nil, due, o, kind), patch.AppendRaw(nil, nil), nil)
	})
	if err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}
