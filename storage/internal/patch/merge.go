package patch

import (
	"encoding/binary"
	"slices"
)

// A Merge folds the stored values of one key into one. Its zero value holds
// none. Add values by Newer alone or by Older alone. A Merge keeps copies.
type Merge struct {
	operands [][]byte // in the order of the calls
	tally    tally    // of the operands
	copies   []byte   // the end of the memory that they are in
	older    bool     // operands run from the newest to the oldest

	base    []byte // stored; nil when none was given
	val     []byte // what it holds
	patches int
}

// Newer adds a value that is newer than all so far. A whole value replaces
// them.
func (m *Merge) Newer(stored []byte) error {
	if IsOperand(stored) {
		return m.operand(stored)
	}
	if err := m.whole(stored); err != nil {
		return err
	}
	m.operands, m.tally = m.operands[:0], tally{}
	return nil
}

// Older adds a value that is older than all so far. It has no effect behind a
// whole value.
func (m *Merge) Older(stored []byte) error {
	m.older = true
	switch {
	case m.base != nil:
		return nil
	case IsOperand(stored):
		return m.operand(stored)
	}
	return m.whole(stored)
}

func (m *Merge) operand(stored []byte) error {
	if err := m.tally.add(stored); err != nil {
		return err
	}
	if m.operands == nil {
		m.operands = make([][]byte, 0, 8)
	}
	m.operands = append(m.operands, m.keep(stored))
	return nil
}

func (m *Merge) whole(stored []byte) (err error) {
	kept := m.keep(stored)
	if m.val, m.patches, err = Decode(kept); err != nil {
		return err
	}
	m.base = kept
	return nil
}

// keep returns a copy of b. Copies share what memory is left from the last.
func (m *Merge) keep(b []byte) []byte {
	if cap(m.copies)-len(m.copies) < len(b) {
		m.copies = make([]byte, 0, max(2*cap(m.copies), len(b), 256))
	}
	start := len(m.copies)
	m.copies = append(m.copies, b...)
	return m.copies[start:len(m.copies):len(m.copies)]
}

// Finish returns the merged value. complete tells that nothing older exists, so
// that patches without a whole value apply to the empty one; otherwise they are
// joined into one operand.
func (m *Merge) Finish(complete bool) ([]byte, error) {
	if m.older {
		slices.Reverse(m.operands)
		m.older = false
	}
	if m.base == nil && !complete {
		return m.join(), nil
	}
	if len(m.operands) == 0 {
		return m.base, nil
	}
	longest := max(len(m.val), m.tally.longest)
	out := make([]byte, 0, 1+binary.MaxVarintLen32+longest)
	out = append(out, tagMerged)
	out = binary.AppendUvarint(out, min(uint64(m.patches)+uint64(m.tally.patches), maxMerged))
	return appendApplied(out, m.val, m.operands...), nil
}

// join returns all operands as one.
func (m *Merge) join() []byte {
	if len(m.operands) == 1 {
		return m.operands[0]
	}
	out := make([]byte, 1, 1+len(m.operands)*2+m.size())
	out[0] = tagPatches
	for _, op := range m.operands {
		if op[0] == tagPatches {
			out = append(out, op[1:]...)
			continue
		}
		out = binary.AppendUvarint(out, uint64(len(op)-1))
		out = append(out, op[1:]...)
	}
	return out
}

func (m *Merge) size() (n int) {
	for _, op := range m.operands {
		n += len(op)
	}
	return n
}
