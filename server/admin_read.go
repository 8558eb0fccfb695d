package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	adminv1 "github.com/durable-go/durable/gen/durable/admin/v1"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

// Limits of pages.
const (
	defaultPage = 50
	maxPage     = 1000
	// maxPageBytes is how many bytes of keys and values a page of pairs has, but
	// for its first pair.
	maxPageBytes = 1 << 20

	defaultValueBytes = 4 << 10
	maxValueBytes     = 16 << 20
)

// A list looks at several objects side by side, at none for longer than a moment:
// one that is stuck must not hide the others.
const (
	describeAtOnce   = 32
	describePatience = time.Second
)

// ListObjects implements [adminv1connect.AdminServiceHandler].
func (a admin) ListObjects(ctx context.Context, req *adminv1.ListObjectsRequest) (*adminv1.ListObjectsResponse, error) {
	typ, err := a.objectType(req.GetType())
	if err != nil {
		return nil, err
	}
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	query := storage.ObjectQuery{Type: typ.StorageID(), Prefix: req.GetPrefix()}
	if req.GetPageToken() != "" {
		if query.After, err = objectAfter(typ, req.GetPrefix(), req.GetPageToken()); err != nil {
			return nil, err
		}
	}
	list := target{typ: typ}
	res := &adminv1.ListObjectsResponse{}
	var found []storage.Object
	for o, err := range a.s.session.Objects(ctx, query) {
		if err != nil {
			return nil, list.answer(fmt.Errorf("list objects: %w", err))
		}
		if len(found) == size {
			last := found[size-1]
			res.NextPageToken = pageToken(objectToken, last.ID[:], []byte(last.Name))
			break
		}
		found = append(found, o)
	}
	if res.Objects, err = a.describeAll(ctx, typ, found); err != nil {
		return nil, list.answer(err)
	}
	return res, nil
}

// describeAll looks at each of the objects, and leaves those out that are gone.
func (a admin) describeAll(ctx context.Context, typ *actor.Type, found []storage.Object) ([]*adminv1.Object, error) {
	all := make([]*adminv1.Object, len(found))
	group, inGroup := errgroup.WithContext(ctx)
	group.SetLimit(describeAtOnce)
	for i, o := range found {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(inGroup, describePatience)
			defer cancel()
			d, err := a.s.host.Describe(ctx, typ, o.ID)
			switch {
			case errors.Is(err, durable.ErrDraining):
				return err
			case err != nil:
				all[i] = &adminv1.Object{
					Type: typ.Name, Name: o.Name, Id: durable.ID(o.ID).String(), Created: timestamp(o.Created),
					Problem: problem(ctx, target{typ: typ, id: o.ID}, err),
				}
			case d.Exists:
				all[i] = describe(typ, o.ID, d)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	gone := func(o *adminv1.Object) bool { return o == nil }
	return slices.DeleteFunc(all, gone), ctx.Err()
}

// problem says in a list why an object could not be looked at.
func problem(ctx context.Context, o target, err error) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Sprintf("it could not be looked at within %v: it is busy, or large", describePatience)
	}
	answer := o.answer(err)
	return answer.Code().String() + ": " + answer.Message()
}

// DescribeObject implements [adminv1connect.AdminServiceHandler].
func (a admin) DescribeObject(ctx context.Context, req *adminv1.DescribeObjectRequest) (*adminv1.DescribeObjectResponse, error) {
	o, err := a.object(req)
	if err != nil {
		return nil, err
	}
	d, err := a.s.host.Describe(ctx, o.typ, o.id)
	if err == nil && !d.Exists {
		err = durable.ErrNoObject
	}
	if err != nil {
		return nil, o.answer(err)
	}
	return &adminv1.DescribeObjectResponse{Object: describe(o.typ, o.id, d), Alarms: alarms(o.typ, d.Alarms)}, nil
}

func describe(typ *actor.Type, id durable.ID, d actor.Description) *adminv1.Object {
	o := &adminv1.Object{
		Type: typ.Name, Name: d.Name, Id: id.String(),
		Created: timestamp(d.Created), LastCommit: timestamp(d.LastCommit),
		StoredBytes: d.StoredBytes, Active: d.Active, Connections: int64(d.Connections),
	}
	var next time.Time
	for _, alarm := range d.Alarms {
		if next.IsZero() || alarm.Due.Before(next) {
			next = alarm.Due
		}
	}
	o.NextAlarm = timestamp(next)
	return o
}

// timestamp returns t to the millisecond, as times are stored, and nil for the
// zero time, which is not known.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t.Truncate(time.Millisecond))
}

// ListPairs implements [adminv1connect.AdminServiceHandler].
func (a admin) ListPairs(ctx context.Context, req *adminv1.ListPairsRequest) (*adminv1.ListPairsResponse, error) {
	o, err := a.object(req)
	if err != nil {
		return nil, err
	}
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	most := int(req.GetMaxValueBytes())
	switch {
	case most < 0 || most > maxValueBytes:
		return nil, invalid("max_value_bytes is %d, and must be from 0 to %d", most, maxValueBytes)
	case most == 0:
		most = defaultValueBytes
	}
	prefix := string(req.GetPrefix())
	opts := []durable.ListOption{durable.ListPrefix(prefix), durable.ListLimit(size + 1)}
	if req.GetPageToken() != "" {
		after, err := parseToken(pairToken, req.GetPageToken())
		if err != nil || !strings.HasPrefix(string(after), prefix) {
			return nil, badToken()
		}
		opts = append(opts, durable.ListStartAfter(string(after)))
	}
	res := &adminv1.ListPairsResponse{}
	err = a.s.host.Inspect(ctx, o.typ, o.id, func(view durable.View) error {
		return listPairs(ctx, view.KV(), opts, size, most, res)
	})
	if err != nil {
		return nil, o.answer(err)
	}
	return res, nil
}

// listPairs fills a page of at most size pairs, with values of at most most
// bytes.
func listPairs(ctx context.Context, kv durable.KVReader, opts []durable.ListOption, size, most int, res *adminv1.ListPairsResponse) error {
	total := 0
	for e, err := range kv.List(ctx, opts...) {
		if err != nil {
			return err
		}
		pair := &adminv1.Pair{Key: []byte(e.Key), Value: e.Value, ValueBytes: int64(len(e.Value))}
		if len(e.Value) > most {
			pair.Value, pair.Truncated = bytes.Clone(e.Value[:most]), true
		}
		total += len(pair.Key) + len(pair.Value)
		if n := len(res.Pairs); n == size || n > 0 && total > maxPageBytes {
			res.NextPageToken = pageToken(pairToken, res.Pairs[n-1].Key)
			return nil
		}
		res.Pairs = append(res.Pairs, pair)
	}
	return nil
}

func pageSize(n int32) (int, error) {
	switch {
	case n < 0 || n > maxPage:
		return 0, invalid("page_size is %d, and must be from 0 to %d", n, maxPage)
	case n == 0:
		return defaultPage, nil
	}
	return int(n), nil
}

// The first byte of a page token says what it is of, and in which format.
const (
	objectToken = 'o' // the id and the name of the last object of the page
	pairToken   = 'p' // the last key of the page
)

func pageToken(kind byte, parts ...[]byte) string {
	token := append([]byte{kind}, bytes.Join(parts, nil)...)
	return base64.RawURLEncoding.EncodeToString(token)
}

func parseToken(kind byte, text string) ([]byte, error) {
	token, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(token) == 0 || token[0] != kind {
		return nil, badToken()
	}
	return token[1:], nil
}

// objectAfter returns the object that a token of a list with that prefix stands
// for.
func objectAfter(typ *actor.Type, prefix, text string) (*storage.Object, error) {
	token, err := parseToken(objectToken, text)
	if err != nil {
		return nil, err
	}
	after := &storage.Object{}
	if copy(after.ID[:], token) < len(after.ID) {
		return nil, badToken()
	}
	after.Type, after.Name = typ.StorageID(), string(token[len(after.ID):])
	id := durable.ID(after.ID)
	switch {
	case durable.CheckID(typ.Name, id) != nil,
		after.Name != "" && durable.IDFromName(typ.Name, after.Name) != id,
		!strings.HasPrefix(after.Name, prefix):
		return nil, badToken()
	}
	return after, nil
}

func badToken() error {
	return invalid("the page token is not of a page of this list: pass on next_page_token as it came, with the same request")
}
