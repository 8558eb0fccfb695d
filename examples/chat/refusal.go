package main

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect/v2"

	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
)

const (
	maxUserChars     = 32
	maxTextChars     = 2000
	maxClientIDBytes = 64
)

// A refusal is an error that the one who caused it is told, and nobody else.
type refusal struct{ refused *chatv1.JoinResponse_Refused }

func refuse(reason chatv1.RefusedReason, text string) *refusal {
	return &refusal{&chatv1.JoinResponse_Refused{Reason: reason, Text: text}}
}

func (r *refusal) Error() string { return r.refused.GetText() }

// wire returns the error for callers of unary methods.
func (r *refusal) wire() error {
	code := connect.CodeInvalidArgument
	if r.refused.GetReason() == chatv1.RefusedReason_REFUSED_REASON_RATE {
		code = connect.CodeResourceExhausted
	}
	return connect.NewError(code, r.refused.GetText())
}

// cleanUser returns the name of a user without superfluous spaces.
func cleanUser(user string) (string, error) {
	user = strings.Join(strings.Fields(user), " ")
	switch n := utf8.RuneCountInString(user); {
	case n == 0:
		return "", refuse(chatv1.RefusedReason_REFUSED_REASON_BAD_USER, "Say who you are.")
	case n > maxUserChars:
		return "", refuse(chatv1.RefusedReason_REFUSED_REASON_BAD_USER, "The name is too long: 32 characters at most.")
	case strings.ContainsFunc(user, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", refuse(chatv1.RefusedReason_REFUSED_REASON_BAD_USER, "The name has characters that cannot be seen.")
	}
	return user, nil
}

// cleanText returns a text without the space around it.
func cleanText(text, clientID string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "", refuse(chatv1.RefusedReason_REFUSED_REASON_EMPTY, "The message is empty.")
	case utf8.RuneCountInString(text) > maxTextChars:
		return "", refuse(chatv1.RefusedReason_REFUSED_REASON_TOO_LONG, "The message is too long: 2,000 characters at most.")
	case len(clientID) > maxClientIDBytes:
		return "", refuse(chatv1.RefusedReason_REFUSED_REASON_TOO_LONG, "The client_id is too long: 64 bytes at most.")
	}
	return text, nil
}
