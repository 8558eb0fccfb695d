package main

import (
	"context"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	bankv1 "github.com/durable-go/durable/examples/bank/gen/bank/v1"
	"github.com/durable-go/durable/examples/bank/gen/bank/v1/bankv1durable"
)

// transfer is one transfer. It writes down how far it has come before each
// step, and names each step to the accounts by its own name, so that a transfer
// that was cut off anywhere can be asked for again and moves the amount once.
type transfer struct{}

func newTransfer(context.Context, bankv1durable.TransferTx) (bankv1durable.TransferHandler, error) {
	return transfer{}, nil
}

// Transfer moves the amount, or goes on where an earlier call was cut off.
func (transfer) Transfer(ctx context.Context, tx bankv1durable.TransferTx, req *bankv1.TransferRequest) (*bankv1.TransferResponse, error) {
	switch {
	case req.GetAmount() <= 0:
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the amount is %d and must be positive", req.GetAmount())
	case req.GetFrom() == req.GetTo():
		return nil, connect.Errorf(connect.CodeInvalidArgument, "from and to are the same account")
	case durable.CheckName(req.GetFrom()) != nil:
		return nil, connect.NewError(connect.CodeInvalidArgument, "from is not the name of an account")
	case durable.CheckName(req.GetTo()) != nil:
		return nil, connect.NewError(connect.CodeInvalidArgument, "to is not the name of an account")
	}
	progress := &bankv1.TransferProgress{Request: req, State: bankv1.TransferState_TRANSFER_STATE_STARTED}
	if ok, err := durable.GetProto(ctx, tx.KV(), "progress", progress); err != nil {
		return nil, err
	} else if !ok {
		if err := record(ctx, tx, progress, progress.GetState()); err != nil {
			return nil, err
		}
	}
	if was := progress.GetRequest(); was.GetFrom() != req.GetFrom() || was.GetTo() != req.GetTo() || was.GetAmount() != req.GetAmount() {
		return nil, connect.NewError(connect.CodeAlreadyExists, "a transfer of that id has other accounts or another amount")
	}

	// A call to an account first commits what was recorded.
	accounts := bankv1durable.NewAccountClient(tx)
	reference := "transfer/" + tx.Name()
	if progress.GetState() == bankv1.TransferState_TRANSFER_STATE_STARTED {
		_, err := accounts.GetByName(req.GetFrom()).Withdraw(ctx, &bankv1.WithdrawRequest{Amount: req.GetAmount(), Reference: reference})
		if refused(err) {
			if rerr := record(ctx, tx, progress, bankv1.TransferState_TRANSFER_STATE_REFUSED); rerr != nil {
				return nil, rerr
			}
			return nil, durable.Keep(err) // the refusal is recorded all the same
		}
		if err != nil {
			return nil, err
		}
		if err := record(ctx, tx, progress, bankv1.TransferState_TRANSFER_STATE_WITHDRAWN); err != nil {
			return nil, err
		}
	}
	if progress.GetState() == bankv1.TransferState_TRANSFER_STATE_WITHDRAWN {
		_, err := accounts.GetByName(req.GetTo()).Deposit(ctx, &bankv1.DepositRequest{Amount: req.GetAmount(), Reference: reference})
		if refused(err) { // give it back
			if _, rerr := accounts.GetByName(req.GetFrom()).Deposit(ctx, &bankv1.DepositRequest{Amount: req.GetAmount(), Reference: reference + "/back"}); rerr != nil {
				return nil, rerr
			}
			if rerr := record(ctx, tx, progress, bankv1.TransferState_TRANSFER_STATE_REFUSED); rerr != nil {
				return nil, rerr
			}
			return nil, durable.Keep(err)
		}
		if err != nil {
			return nil, err
		}
		if err := record(ctx, tx, progress, bankv1.TransferState_TRANSFER_STATE_DONE); err != nil {
			return nil, err
		}
	}
	return &bankv1.TransferResponse{State: progress.GetState()}, nil
}

// refused reports whether the account itself refused the booking, for good, and
// not the runtime.
func refused(err error) bool {
	if !durableconnect.ErrorInfo(err).GetRemote() {
		return false
	}
	switch connect.CodeOf(err) {
	case connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeAlreadyExists, connect.CodeInvalidArgument:
		return true
	default:
		return false
	}
}

func record(ctx context.Context, tx bankv1durable.TransferTx, p *bankv1.TransferProgress, state bankv1.TransferState) error {
	p.State = state
	return durable.PutProto(ctx, tx.KV(), "progress", p)
}
