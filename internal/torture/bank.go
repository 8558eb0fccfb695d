package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	durable "github.com/durable-go/durable"
	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// bank is the load of transfers. They go from accounts to those with a higher
// number, since two accounts that wait for one another would wait for long.
type bank struct {
	*torture
	client torturev1durable.AccountClient

	mu struct {
		sync.Mutex
		bookings []booking
	}
	settled int64
}

// A booking is a deposit or a transfer that was asked for.
type booking struct {
	reference string
	from, to  int // from is negative for a deposit
	amount    int64
	outcome   outcome // of a transfer that was cut off: answered, if it was found
	cutOff    bool
}

const accountCount = 6

func newBank(t *torture) *bank {
	return &bank{torture: t, client: torturev1durable.NewAccountClient(t.conn)}
}

func accountName(i int) string { return fmt.Sprintf("account-%d", i) }

func (l *bank) step(ctx context.Context, c *client) {
	b := booking{reference: c.name(), from: -1, to: c.IntN(accountCount), amount: 1 + c.Int64N(100)}
	if c.IntN(3) > 0 {
		b.from = c.IntN(accountCount - 1)
		b.to = b.from + 1 + c.IntN(accountCount-1-b.from)
	}
	l.book(ctx, &b)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.bookings = append(l.mu.bookings, b)
}

// book asks for a booking until it is known what became of it.
func (l *bank) book(ctx context.Context, b *booking) {
	key := durable.WithIdempotencyKey(b.reference)
	b.outcome = l.insist(ctx, func(ctx context.Context) (err error) {
		if b.from < 0 {
			_, err = l.client.GetByName(accountName(b.to)).Deposit(ctx,
				&torturev1.DepositRequest{Reference: b.reference, Amount: b.amount}, key, repeatedly)
			return err
		}
		_, err = l.client.GetByName(accountName(b.from)).Transfer(ctx,
			&torturev1.TransferRequest{Reference: b.reference, Amount: b.amount, To: accountName(b.to)}, key, repeatedly)
		return err
	})
	if b.outcome != cutOff {
		return
	}
	// It was cut off after a commit, and what that wrote must be there.
	b.cutOff = true
	var res *torturev1.OutcomeResponse
	b.outcome = l.insist(ctx, func(ctx context.Context) (err error) {
		res, err = l.client.GetByName(accountName(max(0, b.from))).Outcome(ctx, &torturev1.OutcomeRequest{Reference: b.reference}, repeatedly)
		return err
	})
	if b.outcome == answered && !res.GetTaken() {
		l.violated("%v was cut off, but there is nothing of it", b)
	}
}

func (l *bank) check(ctx context.Context) {
	var all [accountCount]*torturev1.LedgerResponse
	for {
		pending := 0
		for i := range all {
			if l.insist(ctx, func(ctx context.Context) (err error) {
				all[i], err = l.client.GetByName(accountName(i)).Ledger(ctx, &torturev1.LedgerRequest{}, repeatedly)
				return err
			}) != answered {
				l.violated("%s could not be read in the end", accountName(i))
				return
			}
			pending += len(all[i].GetPending())
		}
		if pending == 0 {
			break
		}
		if !pause(ctx, 200*time.Millisecond) {
			l.violated("%d transfers were not finished by the alarms of their accounts", pending)
			break
		}
	}
	var amounts [accountCount]map[string][]int64 // by reference
	var balances, deposits int64
	for i, ledger := range all {
		amounts[i] = map[string][]int64{}
		var sum int64
		for _, e := range ledger.GetEntries() {
			amounts[i][e.GetReference()] = append(amounts[i][e.GetReference()], e.GetAmount())
			sum += e.GetAmount()
		}
		if sum != ledger.GetBalance() {
			l.violated("the balance of %s is %d, and its entries make %d", accountName(i), ledger.GetBalance(), sum)
		}
		balances += ledger.GetBalance()
		l.settled += ledger.GetSettled()
	}
	for _, b := range l.mu.bookings {
		if b.from < 0 && b.outcome == answered {
			deposits += b.amount
		}
		l.compare(b, amounts)
		for i := range amounts {
			delete(amounts[i], b.reference)
		}
	}
	for i := range amounts {
		for reference, entries := range amounts[i] {
			l.violated("%s has the entries %d of %s, which nobody asked for", accountName(i), entries, reference)
		}
	}
	if balances != deposits {
		l.violated("the accounts hold %d, and %d were deposited", balances, deposits)
	}
}

// compare compares a booking with the entries of all accounts.
func (l *bank) compare(b booking, amounts [accountCount]map[string][]int64) {
	var want [accountCount]int64
	switch b.outcome {
	case answered:
		want[b.to] = b.amount
		if b.from >= 0 {
			want[b.from] = -b.amount
		}
	case refused:
	default:
		l.violated("%v was not answered", b)
		return
	}
	for i, entries := range amounts {
		found := entries[b.reference]
		switch {
		case len(found) == 0 && want[i] == 0, len(found) == 1 && found[0] == want[i]:
		case len(found) > 1:
			l.violated("%v is in %s %d times, with %d", b, accountName(i), len(found), found)
		case want[i] == 0:
			l.violated("%v is in %s, with %d", b, accountName(i), found)
		default:
			l.violated("%v should be in %s with %d, and is lost: what is there is %d", b, accountName(i), want[i], found)
		}
	}
}

func (b booking) String() string {
	kind := "the deposit"
	if b.from >= 0 {
		kind = "the transfer from " + accountName(b.from)
	}
	state := map[outcome]string{answered: "was answered", refused: "was refused"}[b.outcome]
	if b.cutOff {
		state = "was cut off"
	}
	return fmt.Sprintf("%s %s of %d to %s, which %s,", kind, b.reference, b.amount, accountName(b.to), state)
}

func (l *bank) report() string {
	var deposits, transfers, refusals, cuts int
	for _, b := range l.mu.bookings {
		switch {
		case b.outcome == refused:
			refusals++
		case b.from < 0:
			deposits++
		default:
			transfers++
		}
		if b.cutOff {
			cuts++
		}
	}
	if deposits == 0 || transfers == 0 {
		return ""
	}
	return fmt.Sprintf("%-10s%d deposits and %d transfers answered, %d refused; %d were cut off, and %d finished by an alarm\n",
		"bank", deposits, transfers, refusals, cuts, l.settled)
}
