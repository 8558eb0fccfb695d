package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/actor"
)

// The places of a resume token: a header, and a parameter of the URL of a
// WebSocket.
const resumeParameter = "resume"

var resumeText = regexp.MustCompile(`^([A-Za-z0-9_-]{16,128}):([0-9]{1,19})$`)

// A resumeError reports a resume token that cannot be used.
type resumeError struct{ problem string }

func (e *resumeError) Error() string { return e.problem }

type resumeContext struct{}

// withResume keeps what a request says of resuming for when its object is known.
func withResume(ctx context.Context, values []string) context.Context {
	if len(values) == 0 {
		return ctx
	}
	return context.WithValue(ctx, resumeContext{}, values)
}

// resumeValues returns what a request says of resuming.
func resumeValues(header http.Header, query url.Values) []string {
	return append(header.Values(durable.ResumeHeader), query[resumeParameter]...)
}

// resume returns what a call says of resuming, nil where it says nothing.
func (r *route) resume(ctx context.Context) (*actor.Resume, error) {
	values, _ := ctx.Value(resumeContext{}).([]string)
	if len(values) == 0 {
		return nil, nil
	}
	if r.method.Connection == nil || r.method.Connection.Resume == nil {
		return nil, &resumeError{fmt.Sprintf("the connections of %s cannot be resumed: its schema has no option resume", r.method.Procedure)}
	}
	for _, value := range values[1:] {
		if value != values[0] {
			return nil, &resumeError{"the call has two resume tokens"}
		}
	}
	parts := resumeText.FindStringSubmatch(values[0])
	if parts == nil {
		return nil, &resumeError{"the resume token is not 16 to 128 letters, digits, '-' and '_', a colon and the number of messages received"}
	}
	received, err := strconv.ParseUint(parts[2], 10, 63)
	if err != nil {
		return nil, &resumeError{"the resume token is not followed by a number of messages: " + strings.TrimPrefix(err.Error(), "strconv.")}
	}
	return &actor.Resume{Token: parts[1], Received: received}, nil
}
