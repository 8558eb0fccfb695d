// Package check holds what every engine asks of a batch before it applies it.
// Some checks are too dear for every build: they exist under -race and under
// -tags invariants.
package check

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
)

// Batch returns a [storage.LimitError] for a batch over a limit of the store, or
// an error that wraps [storage.ErrInvalid] for one that makes no sense.
func Batch(b *storage.Batch, limits *storage.Info) error {
	for _, p := range b.Put {
		if err := pair(p, limits); err != nil {
			return err
		}
	}
	for _, k := range b.Del {
		if len(k) > limits.MaxKey {
			return tooLarge("key bytes", limits.MaxKey, len(k))
		}
	}
	for _, p := range b.Merge {
		if err := pair(p, limits); err != nil {
			return err
		}
		length, err := patch.Check(p.Val)
		if err != nil {
			return fmt.Errorf("%w: merge operand: %w", storage.ErrInvalid, err)
		}
		if length > limits.MaxValue {
			return tooLarge("value bytes", limits.MaxValue, length)
		}
	}
	if size := b.Size(); size > limits.MaxBatch {
		return tooLarge("batch bytes", limits.MaxBatch, size)
	}
	if b.Create != nil && len(b.Create.Name) > limits.MaxKey {
		return tooLarge("name bytes", limits.MaxKey, len(b.Create.Name))
	}
	for _, t := range b.Timers {
		if t.Object != b.Object {
			return fmt.Errorf("%w: timer of another object", storage.ErrInvalid)
		}
	}
	if Enabled {
		return folded(b)
	}
	return nil
}

func pair(p storage.Pair, limits *storage.Info) error {
	if len(p.Key) > limits.MaxKey {
		return tooLarge("key bytes", limits.MaxKey, len(p.Key))
	}
	if len(p.Val) > limits.MaxValue {
		return tooLarge("value bytes", limits.MaxValue, len(p.Val))
	}
	return nil
}

func tooLarge(what string, limit, actual int) error {
	return &storage.LimitError{What: what, Max: int64(limit), Actual: int64(actual), Err: storage.ErrTooLarge}
}

// folded returns an error when a key occurs twice in the batch, or a kind of
// timer does.
func folded(b *storage.Batch) error {
	keys := make([][]byte, 0, len(b.Put)+len(b.Del)+len(b.Merge))
	for _, p := range b.Put {
		keys = append(keys, p.Key)
	}
	keys = append(keys, b.Del...)
	for _, p := range b.Merge {
		keys = append(keys, p.Key)
	}
	slices.SortFunc(keys, bytes.Compare)
	for i := 1; i < len(keys); i++ {
		if bytes.Equal(keys[i-1], keys[i]) {
			return fmt.Errorf("%w: key %q occurs twice in a batch", storage.ErrInvalid, keys[i])
		}
	}
	var kinds [256]bool
	for _, t := range b.Timers {
		if kinds[t.Kind] {
			return fmt.Errorf("%w: timer %d occurs twice in a batch", storage.ErrInvalid, t.Kind)
		}
		kinds[t.Kind] = true
	}
	return nil
}

// ErrNoObject is returned for a batch that writes to an object that does not
// exist, without making it.
var ErrNoObject = fmt.Errorf("%w: the object does not exist and the batch does not create it", storage.ErrInvalid)

// NeedsObject reports whether a batch makes sense only for an object that
// exists.
func NeedsObject(b *storage.Batch) bool {
	if b.Create != nil {
		return false
	}
	if len(b.Put) > 0 || len(b.Merge) > 0 {
		return true
	}
	return slices.ContainsFunc(b.Timers, func(t storage.Timer) bool { return !t.Due.IsZero() })
}
