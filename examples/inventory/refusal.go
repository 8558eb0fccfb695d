package main

import (
	"errors"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
)

// What SQLite calls the kinds of constraints.
const (
	check      = "SQLITE_CONSTRAINT_CHECK"
	foreignKey = "SQLITE_CONSTRAINT_FOREIGNKEY"
	primaryKey = "SQLITE_CONSTRAINT_PRIMARYKEY"
	unique     = "SQLITE_CONSTRAINT_UNIQUE"
)

// refusals say what a caller is told when a constraint refuses what it asked for.
var refusals = []struct {
	kind, constraint string
	code             connect.Code
	text             string
}{
	{unique, "items.sku", connect.CodeAlreadyExists, "there is an item with that SKU"},
	{check, "item_sku", connect.CodeInvalidArgument, "the SKU must have 1 to 64 characters"},
	{check, "item_name", connect.CodeInvalidArgument, "the name must have 1 to 200 characters"},
	{check, "item_description", connect.CodeInvalidArgument, "the description must have at most 10,000 characters"},
	{check, "item_price", connect.CodeInvalidArgument, "the price must be from 0 to 100,000,000"},
	{check, "item_on_hand", connect.CodeOutOfRange, "the warehouse holds at most 100,000,000 of an item"},
	{check, "quantity", connect.CodeInvalidArgument, "the quantity must be from 1 to 100,000,000"},
	{check, "delivery", connect.CodeInvalidArgument, "the name of the delivery must have at most 64 characters"},
	{check, "order_id", connect.CodeInvalidArgument, "the id of the order must have 1 to 64 characters"},
	{primaryKey, "lines.reservation, lines.sku", connect.CodeInvalidArgument, "two lines are for the same item"},
}

// refusal returns what a caller is told of err: what the table above says of the
// constraint that was violated, and err itself for anything else.
func refusal(err error) error {
	for _, r := range refusals {
		if violates(err, r.kind, r.constraint) {
			return connect.NewError(r.code, r.text)
		}
	}
	return err
}

// violates reports whether err is the violation of that constraint.
func violates(err error, kind, constraint string) bool {
	var e *durable.SQLError
	return errors.As(err, &e) && e.Code == kind && e.Constraint == constraint
}
