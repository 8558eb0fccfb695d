package main

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// account books whatever it is told to, and relies on idempotency keys for not
// doing it twice.
//
// What Transfer takes it writes down as pending, and sets an alarm, in the same
// commit; then it gives the amount to the other account. Whatever cuts it off
// after that commit, the alarm finishes the transfer, by a call with the same
// idempotency key.
type account struct{}

func newAccount(context.Context, torturev1durable.AccountTx) (torturev1durable.AccountHandler, error) {
	return account{}, nil
}

const (
	entryPrefix   = "entry/"   // and its number
	takenPrefix   = "taken/"   // and the reference of a transfer
	pendingPrefix = "pending/" // and the reference of a transfer
)

// settleAfter is how long the alarm lets a transfer try by itself.
const settleAfter = 300 * time.Millisecond

// Deposit implements [torturev1durable.AccountHandler].
func (a account) Deposit(ctx context.Context, tx torturev1durable.AccountTx, req *torturev1.DepositRequest) (*torturev1.DepositResponse, error) {
	balance, err := a.book(ctx, tx, req.GetReference(), req.GetAmount())
	return &torturev1.DepositResponse{Balance: balance}, err
}

// Transfer implements [torturev1durable.AccountHandler].
func (a account) Transfer(ctx context.Context, tx torturev1durable.AccountTx, req *torturev1.TransferRequest) (*torturev1.TransferResponse, error) {
	balance, err := a.book(ctx, tx, req.GetReference(), -req.GetAmount())
	if err != nil {
		return nil, err
	}
	kv := tx.KV()
	if err := kv.Put(ctx, takenPrefix+req.GetReference(), []byte{}); err != nil {
		return nil, err
	}
	if err := durable.PutProto(ctx, kv, pendingPrefix+req.GetReference(), req); err != nil {
		return nil, err
	}
	if err := tx.Alarms().Settle().Set(tx.Now().Add(settleAfter)); err != nil {
		return nil, err
	}
	if a.give(ctx, tx, req) == nil {
		err = a.rest(ctx, tx)
	} // otherwise the alarm tries again
	return &torturev1.TransferResponse{Balance: balance}, err
}

// SettleAlarm implements [torturev1durable.AccountHandler].
func (a account) SettleAlarm(ctx context.Context, tx torturev1durable.AccountTx, _ torturev1durable.AccountSettleAlarm) error {
	pending, err := a.pending(ctx, tx.KV())
	if err != nil {
		return err
	}
	for _, req := range pending {
		if err := a.give(ctx, tx, req); err != nil {
			return err
		}
		state, err := a.state(ctx, tx.KV())
		if err != nil {
			return err
		}
		state.Settled++
		if err := durable.PutProto(ctx, tx.KV(), stateKey, state); err != nil {
			return err
		}
	}
	return nil
}

// give gives a pending amount to the other account. The call is a commit point.
func (account) give(ctx context.Context, tx torturev1durable.AccountTx, req *torturev1.TransferRequest) error {
	_, err := torturev1durable.NewAccountClient(tx).GetByName(req.GetTo()).Deposit(ctx,
		&torturev1.DepositRequest{Reference: req.GetReference(), Amount: req.GetAmount()},
		durable.WithIdempotencyKey(req.GetReference()))
	if err != nil {
		return err
	}
	_, err = tx.KV().Delete(ctx, pendingPrefix+req.GetReference())
	return err
}

// rest deletes the alarm when there is nothing for it to do.
func (a account) rest(ctx context.Context, tx torturev1durable.AccountTx) error {
	pending, err := a.pending(ctx, tx.KV())
	if err != nil || len(pending) > 0 {
		return err
	}
	return tx.Alarms().Settle().Delete()
}

func (account) pending(ctx context.Context, kv durable.KVReader) ([]*torturev1.TransferRequest, error) {
	var all []*torturev1.TransferRequest
	for e, err := range durable.ListProto[torturev1.TransferRequest](ctx, kv, durable.ListPrefix(pendingPrefix)) {
		if err != nil {
			return nil, err
		}
		all = append(all, e.Message)
	}
	return all, nil
}

func (account) state(ctx context.Context, kv durable.KVReader) (*torturev1.State, error) {
	state := &torturev1.State{}
	_, err := durable.GetProto(ctx, kv, stateKey, state)
	return state, err
}

// book writes an entry and returns the new balance.
func (a account) book(ctx context.Context, tx torturev1durable.AccountTx, reference string, amount int64) (int64, error) {
	state, err := a.state(ctx, tx.KV())
	if err != nil {
		return 0, err
	}
	if state.GetBalance()+amount < 0 {
		return 0, connect.Errorf(connect.CodeFailedPrecondition, "the balance is %d", state.GetBalance())
	}
	state.Balance += amount
	state.Entries++
	if err := durable.PutProto(ctx, tx.KV(), stateKey, state); err != nil {
		return 0, err
	}
	key := fmt.Sprintf("%s%012d", entryPrefix, state.GetEntries())
	return state.GetBalance(), durable.PutProto(ctx, tx.KV(), key, &torturev1.Entry{Reference: reference, Amount: amount})
}

// Outcome implements [torturev1durable.AccountHandler].
func (account) Outcome(ctx context.Context, view torturev1durable.AccountView, req *torturev1.OutcomeRequest) (*torturev1.OutcomeResponse, error) {
	_, ok, err := view.KV().Get(ctx, takenPrefix+req.GetReference())
	return &torturev1.OutcomeResponse{Taken: ok}, err
}

// Ledger implements [torturev1durable.AccountHandler].
func (a account) Ledger(ctx context.Context, view torturev1durable.AccountView, _ *torturev1.LedgerRequest) (*torturev1.LedgerResponse, error) {
	state, err := a.state(ctx, view.KV())
	if err != nil {
		return nil, err
	}
	res := &torturev1.LedgerResponse{Balance: state.GetBalance(), Settled: state.GetSettled()}
	for e, err := range durable.ListProto[torturev1.Entry](ctx, view.KV(), durable.ListPrefix(entryPrefix)) {
		if err != nil {
			return nil, err
		}
		res.Entries = append(res.Entries, e.Message)
	}
	res.Pending, err = a.pending(ctx, view.KV())
	return res, err
}
