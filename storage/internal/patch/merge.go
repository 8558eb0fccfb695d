package patch

import "encoding/binary"

// A Merge folds the stored values of one key into one. Its zero value holds
// none. Add values by Newer alone or by Older alone. A Merge keeps copies.
type Merge struct {
	operands [][]byte // in the order of the calls
	base     []byte   // nil when none was given
	older    bool     // operands run from the newest to the oldest
}

// Newer adds a value that is newer than all so far. A whole value replaces
// them.
func (m *Merge) Newer(stored []byte) error {
	if IsOperand(stored) {
		if _, err := Check(stored); err != nil {
			return err
		}
		m.operands = append(m.operands, clone(stored))
		return nil
	}
	if _, _, err := Decode(stored); err != nil {
		return err
	}
	m.base, m.operands = clone(stored), m.operands[:0]
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
		if _, err := Check(stored); err != nil {
			return err
		}
		m.operands = append(m.operands, clone(stored))
		return nil
	}
	if _, _, err := Decode(stored); err != nil {
		return err
	}
	m.base = clone(stored)
	return nil
}

// Finish returns the merged value. complete tells that nothing older exists, so
// that patches without a whole value apply to the empty one; otherwise they are
// joined into one operand.
func (m *Merge) Finish(complete bool) ([]byte, error) {
	if m.older {
		for i, j := 0, len(m.operands)-1; i < j; i, j = i+1, j-1 {
			m.operands[i], m.operands[j] = m.operands[j], m.operands[i]
		}
		m.older = false
	}
	if m.base == nil && !complete {
		return m.join(), nil
	}
	if len(m.operands) == 0 {
		return m.base, nil
	}
	var val []byte
	var merged int
	if m.base != nil {
		var err error
		if val, merged, err = Decode(m.base); err != nil {
			return nil, err
		}
	}
	val, merged, err := apply(val, merged, m.operands...)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, 1+binary.MaxVarintLen32+len(val))
	out = append(out, tagMerged)
	out = binary.AppendUvarint(out, uint64(merged))
	return append(out, val...), nil
}

// join returns all operands as one.
func (m *Merge) join() []byte {
	if len(m.operands) == 1 {
		return m.operands[0]
	}
	out := []byte{tagPatches}
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

func clone(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }
