package pebblekv

import (
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/durable-go/durable/storage/internal/patch"
)

// mergerName is stored in every folder and never changes.
const mergerName = "durable.v1.patch"

var merger = &pebble.Merger{
	Name: mergerName,
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		m := new(valueMerger)
		return m, m.merge.Newer(value)
	},
}

type valueMerger struct{ merge patch.Merge }

func (m *valueMerger) MergeNewer(value []byte) error { return m.merge.Newer(value) }
func (m *valueMerger) MergeOlder(value []byte) error { return m.merge.Older(value) }

func (m *valueMerger) Finish(includesBase bool) ([]byte, io.Closer, error) {
	value, err := m.merge.Finish(includesBase)
	return value, nil, err
}
