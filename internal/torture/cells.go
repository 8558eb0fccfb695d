package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// cells is the load whose history is checked. That takes time that grows with the
// length of a history, and doubles with every caller at the same time: the cells
// change with time, and a few callers share one.
type cells struct {
	*torture
	client torturev1durable.CellClient
	began  time.Time

	mu struct {
		sync.Mutex
		histories map[string][]porcupine.Operation // by cell
		seen      map[string][]int64               // the latest values, by cell
		outcomes  [unexpected + 1]int
	}
	checked, operations int
}

// cellTime is how long a cell is in use.
const cellTime = time.Second

type cellKind int

const (
	read cellKind = iota
	write
	swap
)

// A cellInput is what is asked of a cell.
type cellInput struct {
	kind            cellKind
	value, expected int64
}

// A cellOutput is what a cell answered.
type cellOutput struct {
	known bool  // otherwise there was no answer
	found int64 // by read and swap
}

// cellModel says what a cell does, one operation after the other.
var cellModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		value, in, out := state.(int64), input.(cellInput), output.(cellOutput)
		right := in.kind == write || !out.known || out.found == value
		if in.kind == write || in.kind == swap && in.expected == value {
			value = in.value
		}
		return right, value
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(cellInput), output.(cellOutput)
		found := "?"
		if out.known {
			found = fmt.Sprint(out.found)
		}
		switch in.kind {
		case read:
			return "read → " + found
		case write:
			if !out.known {
				return fmt.Sprintf("write %d → ?", in.value)
			}
			return fmt.Sprintf("write %d", in.value)
		default:
			return fmt.Sprintf("swap %d for %d → %s", in.value, in.expected, found)
		}
	},
}

func newCells(t *torture) *cells {
	l := &cells{torture: t, client: torturev1durable.NewCellClient(t.conn), began: time.Now()}
	l.mu.histories = map[string][]porcupine.Operation{}
	l.mu.seen = map[string][]int64{}
	return l
}

func (l *cells) step(ctx context.Context, c *client) {
	cell := fmt.Sprintf("%d-%d", time.Since(l.began)/cellTime, c.id/len(clientLoads))
	in := cellInput{kind: cellKind(c.IntN(int(swap) + 1)), value: c.number()}
	if in.kind == swap {
		l.mu.Lock()
		if seen := l.mu.seen[cell]; len(seen) > 0 {
			in.expected = seen[c.IntN(len(seen))]
		}
		l.mu.Unlock()
	}
	if l.operate(ctx, cell, c.id, in) == notStarted {
		pause(ctx, 10*time.Millisecond)
	}
}

// operate makes an operation and adds it to the history.
func (l *cells) operate(ctx context.Context, cell string, client int, in cellInput) outcome {
	stub := l.client.GetByName(cell)
	var found int64
	call := time.Since(l.began)
	out := l.once(ctx, func(ctx context.Context) error {
		switch in.kind {
		case read:
			res, err := stub.Read(ctx, &torturev1.ReadRequest{}, singly)
			found = res.GetValue()
			return err
		case write:
			_, err := stub.Write(ctx, &torturev1.WriteRequest{Value: in.value}, singly)
			return err
		default:
			res, err := stub.Swap(ctx, &torturev1.SwapRequest{Expected: in.expected, Value: in.value}, singly)
			found = res.GetFound()
			return err
		}
	})
	op := porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Return: int64(time.Since(l.began))}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.outcomes[out]++
	switch out {
	case notStarted:
		return out
	case answered:
		op.Output = cellOutput{known: true, found: found}
		latest := found
		if in.kind == write || in.kind == swap && found == in.expected {
			latest = in.value
		}
		seen := append(l.mu.seen[cell], latest)
		l.mu.seen[cell] = seen[max(0, len(seen)-3):]
	default: // it may take effect until the end
		op.Output, op.Return = cellOutput{}, math.MaxInt64
	}
	l.mu.histories[cell] = append(l.mu.histories[cell], op)
	return out
}

// checkTimeout is how long the check of one history may take.
const checkTimeout = 20 * time.Second

func (l *cells) check(ctx context.Context) {
	// What nobody read yet is read now, so that it counts if it is lost.
	names := slices.Sorted(maps.Keys(l.mu.histories))
	each(names, func(cell string) {
		for l.operate(ctx, cell, l.clients, cellInput{kind: read}) != answered {
			if !pause(ctx, 20*time.Millisecond) {
				l.violated("cell %s could not be read in the end", cell)
				return
			}
		}
	})
	each(names, func(cell string) {
		history := withoutUnseen(l.mu.histories[cell])
		result, info := porcupine.CheckOperationsVerbose(cellModel, history, checkTimeout)
		switch result {
		case porcupine.Unknown:
			l.violated("cell %s: its %d operations could not be checked within %v", cell, len(history), checkTimeout)
		case porcupine.Illegal:
			path := filepath.Join(l.data, "cell-"+cell+".html")
			if err := porcupine.VisualizePath(cellModel, info, path); err != nil {
				path = err.Error()
			}
			l.violated("cell %s: its %d operations are not linearizable, as %s shows%s", cell, len(history), path, stale(history))
		}
	})
	l.checked = len(names)
	for _, history := range l.mu.histories {
		l.operations += len(history)
	}
}

// withoutUnseen leaves out the operations without an answer whose values nobody
// has seen: whether they took effect or not, the others look the same.
func withoutUnseen(history []porcupine.Operation) []porcupine.Operation {
	seen := map[int64]bool{}
	for _, op := range history {
		seen[op.Output.(cellOutput).found] = true
	}
	return slices.DeleteFunc(slices.Clone(history), func(op porcupine.Operation) bool {
		in := op.Input.(cellInput)
		return !op.Output.(cellOutput).known && (in.kind == read || !seen[in.value])
	})
}

// stale tells of an answer that is older than another one, if it is as simple as
// that; otherwise it returns nothing.
func stale(history []porcupine.Operation) string {
	writes := map[int64]porcupine.Operation{0: {}} // by value, with when they began and ended
	for _, op := range history {
		in, out := op.Input.(cellInput), op.Output.(cellOutput)
		if in.kind == write || in.kind == swap && (!out.known || out.found == in.expected) {
			writes[in.value] = op
		}
	}
	for _, op := range history {
		out := op.Output.(cellOutput)
		if !out.known || op.Input.(cellInput).kind == write {
			continue
		}
		of, ok := writes[out.found]
		if !ok {
			return fmt.Sprintf("; client %d found %d, which nobody wrote", op.ClientId, out.found)
		}
		for value, other := range writes {
			if value != 0 && of.Return < other.Call && other.Return < op.Call {
				return fmt.Sprintf("; client %d found %d, though %d was written after that, and answered", op.ClientId, out.found, value)
			}
		}
	}
	return ""
}

func (l *cells) report() string {
	o := l.mu.outcomes
	if o[answered] == 0 {
		return ""
	}
	return fmt.Sprintf("%-10s%d operations answered, %d of unknown outcome, %d not started; porcupine checked %d histories with %d operations\n",
		"cells", o[answered], o[unknown], o[notStarted], l.checked, l.operations)
}
