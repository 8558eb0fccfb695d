package main

import (
	"context"
	"math"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/durable-go/durable/durabletest"
	bankv1 "github.com/durable-go/durable/examples/bank/gen/bank/v1"
	"github.com/durable-go/durable/examples/bank/gen/bank/v1/bankv1durable"
)

func TestAccount(t *testing.T) {
	ctx := t.Context()
	s := durabletest.New(t, register)
	account := bankv1durable.NewAccountClient(s.Conn()).GetByName("ann")

	for range 2 { // the same reference is booked once
		res, err := account.Deposit(ctx, &bankv1.DepositRequest{Amount: 100, Reference: "wages"})
		if err != nil {
			t.Fatal(err)
		}
		if res.GetBalance() != 100 {
			t.Errorf("after the deposit the balance is %d, want 100", res.GetBalance())
		}
	}
	if _, err := account.Withdraw(ctx, &bankv1.WithdrawRequest{Amount: 101}); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("withdrawing too much: %v, want failed_precondition", err)
	}
	if _, err := account.Deposit(ctx, &bankv1.DepositRequest{Amount: -1}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("depositing less than nothing: %v, want invalid_argument", err)
	}
	if _, err := account.Withdraw(ctx, &bankv1.WithdrawRequest{Amount: 30}); err != nil {
		t.Fatal(err)
	}
	s.Evict(account.Ref) // the constructor finds the balance again
	if got := balance(ctx, t, account); got != 70 {
		t.Errorf("the balance is %d, want 70", got)
	}
	want := []*bankv1.Entry{
		{Number: 1, Amount: 100, Balance: 100, Reference: "wages"},
		{Number: 2, Amount: -30, Balance: 70},
	}
	if diff := cmp.Diff(want, statement(ctx, t, account), protocmp.Transform()); diff != "" {
		t.Errorf("statement (-want +got):\n%s", diff)
	}
}

// TestStatementPages reads a statement of several pages over the network.
func TestStatementPages(t *testing.T) {
	ctx := t.Context()
	s := durabletest.New(t, register)
	account := bankv1durable.NewAccountClient(s.Conn()).GetByName("ann")
	const entries = 250
	for range entries {
		if _, err := account.Deposit(ctx, &bankv1.DepositRequest{Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	got := statement(ctx, t, account)
	if len(got) != entries {
		t.Fatalf("%d entries, want %d", len(got), entries)
	}
	for i, e := range got {
		if e.GetNumber() != int64(i+1) || e.GetBalance() != int64(i+1) {
			t.Fatalf("entry %d is %v", i, e)
		}
	}
}

func TestTransfer(t *testing.T) {
	ctx := t.Context()
	s := durabletest.New(t, register)
	accounts := bankv1durable.NewAccountClient(s.Conn())
	transfers := bankv1durable.NewTransferClient(s.Conn())
	if _, err := accounts.GetByName("ann").Deposit(ctx, &bankv1.DepositRequest{Amount: 100}); err != nil {
		t.Fatal(err)
	}

	req := &bankv1.TransferRequest{From: "ann", To: "bob", Amount: 60}
	for range 3 { // asked for again, it moves nothing more
		res, err := transfers.GetByName("rent").Transfer(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if res.GetState() != bankv1.TransferState_TRANSFER_STATE_DONE {
			t.Errorf("the transfer is %v", res.GetState())
		}
		s.Crash()
	}
	if _, err := transfers.GetByName("rent").Transfer(ctx, &bankv1.TransferRequest{From: "ann", To: "bob", Amount: 61}); connect.CodeOf(err) != connect.CodeAlreadyExists {
		t.Errorf("the same transfer with another amount: %v, want already_exists", err)
	}

	if _, err := transfers.GetByName("more").Transfer(ctx, req); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("transferring too much: %v, want failed_precondition", err)
	}
	res, err := transfers.GetByName("more").Transfer(ctx, req) // durable.Keep recorded the refusal
	if err != nil || res.GetState() != bankv1.TransferState_TRANSFER_STATE_REFUSED {
		t.Errorf("the refused transfer, asked for again: %v, %v", res, err)
	}

	// An account that cannot take the amount: it is given back.
	if _, err := accounts.GetByName("full").Deposit(ctx, &bankv1.DepositRequest{Amount: math.MaxInt64}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := transfers.GetByName("too much").Transfer(ctx, &bankv1.TransferRequest{From: "ann", To: "full", Amount: 1})
		if code := connect.CodeOf(err); err != nil && code != connect.CodeOutOfRange {
			t.Errorf("transferring to a full account: %v", err)
		}
	}
	for _, to := range []string{"", strings.Repeat("x", 2000), "ann"} {
		_, err := transfers.GetByName("nowhere").Transfer(ctx, &bankv1.TransferRequest{From: "ann", To: to, Amount: 1})
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("transferring to %.10q: %v, want invalid_argument", to, err)
		}
	}
	if _, err := accounts.GetByName("ann").Withdraw(ctx, &bankv1.WithdrawRequest{Amount: 1, Reference: "transfer/rent"}); connect.CodeOf(err) != connect.CodeAlreadyExists {
		t.Errorf("a reference with another amount: %v, want already_exists", err)
	}
	for name, want := range map[string]int64{"ann": 40, "bob": 60} {
		if got := balance(ctx, t, accounts.GetByName(name)); got != want {
			t.Errorf("%s has %d, want %d", name, got, want)
		}
	}
}

func balance(ctx context.Context, t *testing.T, account bankv1durable.AccountStub) int64 {
	t.Helper()
	res, err := account.Balance(ctx, &bankv1.BalanceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetBalance()
}

func statement(ctx context.Context, t *testing.T, account bankv1durable.AccountStub) []*bankv1.Entry {
	t.Helper()
	stream, err := account.Statement(ctx, &bankv1.StatementRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var entries []*bankv1.Entry
	for res, err := range stream.All() {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, res.GetEntry())
	}
	return entries
}
