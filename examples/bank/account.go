package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	bankv1 "github.com/durable-go/durable/examples/bank/gen/bank/v1"
	"github.com/durable-go/durable/examples/bank/gen/bank/v1/bankv1durable"
)

// account is one account in memory: the last entry says all that a booking
// needs, so it is kept in a field. When a booking fails after it wrote, the
// runtime drops the value, and the constructor reads the entry again.
type account struct {
	last *bankv1.Entry
}

func newAccount(ctx context.Context, tx bankv1durable.AccountTx) (bankv1durable.AccountHandler, error) {
	a := &account{last: &bankv1.Entry{}}
	for entry, err := range durable.ListProto[bankv1.Entry](ctx, tx.KV(), durable.ListPrefix(entryPrefix), durable.ListReverse(), durable.ListLimit(1)) {
		if err != nil {
			return nil, err
		}
		a.last = entry.Message
	}
	return a, nil
}

const (
	entryPrefix     = "entry/"     // and the number: the entries in order
	referencePrefix = "reference/" // and the reference: the entry that booked it
)

func entryKey(number int64) string { return fmt.Sprintf("%s%020d", entryPrefix, number) }

// Deposit adds an amount.
func (a *account) Deposit(ctx context.Context, tx bankv1durable.AccountTx, req *bankv1.DepositRequest) (*bankv1.DepositResponse, error) {
	if req.GetAmount() <= 0 {
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the amount is %d and must be positive", req.GetAmount())
	}
	entry, err := a.book(ctx, tx, req.GetAmount(), req.GetReference())
	return &bankv1.DepositResponse{Balance: entry.GetBalance()}, err
}

// Withdraw takes an amount, if it is there.
func (a *account) Withdraw(ctx context.Context, tx bankv1durable.AccountTx, req *bankv1.WithdrawRequest) (*bankv1.WithdrawResponse, error) {
	if req.GetAmount() <= 0 {
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the amount is %d and must be positive", req.GetAmount())
	}
	entry, err := a.book(ctx, tx, -req.GetAmount(), req.GetReference())
	return &bankv1.WithdrawResponse{Balance: entry.GetBalance()}, err
}

// book writes an entry, unless the reference was booked before: then it returns
// that entry.
func (a *account) book(ctx context.Context, tx bankv1durable.AccountTx, amount int64, reference string) (*bankv1.Entry, error) {
	kv := tx.KV()
	if reference != "" {
		booked := new(bankv1.Entry)
		ok, err := durable.GetProto(ctx, kv, referencePrefix+reference, booked)
		if err != nil {
			return nil, err
		}
		if ok && booked.GetAmount() != amount {
			return nil, connect.Errorf(connect.CodeAlreadyExists, "the reference %q was booked with another amount", reference)
		}
		if ok {
			return booked, nil
		}
	}
	balance := a.last.GetBalance() + amount
	if amount > 0 && balance < a.last.GetBalance() {
		return nil, connect.NewError(connect.CodeOutOfRange, "the account cannot hold that much")
	}
	if balance < 0 {
		return nil, connect.Errorf(connect.CodeFailedPrecondition, "the balance is %d, less than %d", a.last.GetBalance(), -amount)
	}
	entry := &bankv1.Entry{Number: a.last.GetNumber() + 1, Amount: amount, Balance: balance, Reference: reference}
	if err := durable.PutProto(ctx, kv, entryKey(entry.GetNumber()), entry); err != nil {
		return nil, err
	}
	if reference != "" {
		if err := durable.PutProto(ctx, kv, referencePrefix+reference, entry); err != nil {
			return nil, err
		}
	}
	a.last = entry
	return entry, nil
}

// Balance returns the balance.
func (a *account) Balance(context.Context, bankv1durable.AccountView, *bankv1.BalanceRequest) (*bankv1.BalanceResponse, error) {
	return &bankv1.BalanceResponse{Balance: a.last.GetBalance()}, nil
}

// Statement streams the entries, a page a turn, so that a slow reader keeps
// nobody waiting.
func (a *account) Statement(ctx context.Context, stream bankv1durable.AccountStatementStream, _ *bankv1.StatementRequest) error {
	const page = 100
	after := ""
	for {
		var entries []*bankv1.Entry
		err := stream.View(ctx, func(view bankv1durable.AccountView) error {
			opts := []durable.ListOption{durable.ListPrefix(entryPrefix), durable.ListLimit(page)}
			if after != "" {
				opts = append(opts, durable.ListStartAfter(after))
			}
			for entry, err := range durable.ListProto[bankv1.Entry](ctx, view.KV(), opts...) {
				if err != nil {
					return err
				}
				entries = append(entries, entry.Message)
				after = entry.Key
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := stream.Send(&bankv1.StatementResponse{Entry: entry}); err != nil {
				return err
			}
		}
		if len(entries) < page {
			return nil
		}
	}
}
