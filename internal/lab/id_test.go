package lab_test

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

func TestIDs(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		recorders := labv1durable.NewRecorderClient(b.conn)
		uniques := labv1durable.NewUniqueClient(b.conn)
		t.Run("ID-01 ID-12 a name and its id reach the same object", func(t *testing.T) {
			byName := b.recorder(t)
			name, _ := byName.Name()
			byID := recorders.Get(recorders.IDFromName(name))
			if _, err := byName.Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
				t.Fatal(err)
			}
			same(t, "texts", texts(t, byID), []string{"x"})
			same(t, "id", byID.ID(), byName.ID())
		})
		t.Run("ID-02 types do not share names", func(t *testing.T) {
			o := b.kv(t)
			r := b.recorder(t)
			o.do(put("a", "1"))
			same(t, "texts", texts(t, r), []string(nil))
			if o.ID() == r.ID() {
				t.Error("two types share an id")
			}
		})
		t.Run("ID-05 ID-15 ID-23 random ids", func(t *testing.T) {
			one, two := uniques.NewUniqueID(), uniques.NewUniqueID()
			if one == two {
				t.Error("the same random id twice")
			}
			id, err := uniques.ParseID(one.String())
			if err != nil {
				t.Fatal(err)
			}
			res, err := uniques.Get(id).Touch(t.Context(), &labv1.TouchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "seen", res, &labv1.TouchResponse{Id: one.String(), Field: one.String()})
			same(t, "listed", slices.Contains(b.ListIDs("lab.unique"), one), true)
			same(t, "the other is not", slices.Contains(b.ListIDs("lab.unique"), two), false)
		})
		t.Run("ID-09 an id of another type", func(t *testing.T) {
			wrong := durable.RefByID(b.conn, "lab.recorder", uniques.NewUniqueID())
			stub := labv1durable.RecorderStub{Ref: wrong}
			_, err := stub.Append(t.Context(), &labv1.AppendRequest{Text: "x"})
			keyError(t, err, durablev1.ErrorReason_ERROR_REASON_ID_WRONG_TYPE)
		})
		t.Run("ID-09 the zero id", func(t *testing.T) {
			_, err := recorders.Get(durable.ID{}).Append(t.Context(), &labv1.AppendRequest{})
			keyError(t, err, durablev1.ErrorReason_ERROR_REASON_ID_WRONG_TYPE)
		})
		t.Run("ID-13 a stub has its id and name", func(t *testing.T) {
			r := recorders.GetByName("x")
			name, ok := r.Name()
			same(t, "name", name, "x")
			same(t, "named", ok, true)
			same(t, "id", r.ID(), recorders.IDFromName("x"))
			_, ok = recorders.Get(r.ID()).Name()
			same(t, "by id", ok, false)
		})
		t.Run("ID-14 LIFE-11 a stub creates nothing", func(t *testing.T) {
			before := b.lab.Constructed.Load()
			r := b.recorder(t)
			_ = r.ID()
			same(t, "constructors", b.lab.Constructed.Load()-before, int64(0))
			same(t, "listed", slices.Contains(b.ListIDs("lab.recorder"), r.ID()), false)
			same(t, "texts", texts(t, r), []string(nil))
			same(t, "listed after a read", slices.Contains(b.ListIDs("lab.recorder"), r.ID()), false)
		})
		t.Run("ID-16 names are bytes", func(t *testing.T) {
			for _, name := range []string{
				" a ", "a", "A", "é", "e\u0301", "a/b", "a%2Fb", "a b", "a+b", "%", "日本語", "\U0001f600", "a\nb", "\u2028",
				`"quoted"`, "a,b", "a;b", "?#&=", "..", ".", "/-/name/x", "\t", "\x7f", "\u00a0", " ",
			} {
				res, err := recorders.GetByName(name).InspectTx(t.Context(), &labv1.InspectTxRequest{})
				if err != nil {
					t.Errorf("%q: %v", name, err)
					continue
				}
				same(t, "name", res.GetSeen().GetName(), name)
				same(t, "field", res.GetSeen().GetField(), name)
				same(t, "id", res.GetSeen().GetId(), recorders.IDFromName(name).String())
			}
		})
		t.Run("ID-17 ID-24 names that are refused", func(t *testing.T) {
			for _, name := range []string{"", strings.Repeat("x", 1025), strings.Repeat("é", 513), "a\x00b", "\xff", "a\xc3"} {
				_, err := recorders.GetByName(name).InspectTx(t.Context(), &labv1.InspectTxRequest{})
				keyError(t, err, durablev1.ErrorReason_ERROR_REASON_KEY_INVALID)
			}
		})
		t.Run("ID-24 a name of 1,024 bytes", func(t *testing.T) {
			name := (b.way + strings.Repeat("é", 512))[:1024-1] + "x"
			name = strings.ToValidUTF8(name, "?")
			same(t, "name", inspectTx(t, recorders.GetByName(name)).GetName(), name)
		})
		t.Run("ID-20 ID-26 the object knows its name and id", func(t *testing.T) {
			r := b.recorder(t)
			seen := inspectTx(t, r)
			same(t, "name", seen.GetName(), b.name(t))
			same(t, "constructed as", seen.GetConstructedAs(), b.name(t))
			same(t, "id", seen.GetId(), r.ID().String())
			same(t, "type", seen.GetObjectType(), "lab.recorder")
			same(t, "field", seen.GetField(), b.name(t))
		})
		t.Run("ID-23 by id alone there is no name", func(t *testing.T) {
			seen := inspectTx(t, recorders.Get(recorders.IDFromName(b.name(t))))
			same(t, "name", seen.GetName(), "")
			same(t, "field", seen.GetField(), "")
		})
		t.Run("ID-25 ID-21 a stored name is there for calls by id", func(t *testing.T) {
			r := b.recorder(t)
			if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
				t.Fatal(err)
			}
			b.Evict(r.Ref)
			seen := inspectTx(t, recorders.Get(r.ID()))
			same(t, "name", seen.GetName(), b.name(t))
			same(t, "constructed as", seen.GetConstructedAs(), b.name(t))
			same(t, "exists", seen.GetExists(), true)
		})
		t.Run("ID-20 an object without a key field", func(t *testing.T) {
			plain := labv1durable.NewPlainClient(b.conn)
			res, err := plain.GetByName("é/x").Whoami(t.Context(), &labv1.WhoamiRequest{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "seen", res, &labv1.WhoamiResponse{Name: "é/x", Id: plain.IDFromName("é/x").String()})
		})
		t.Run("the field and the stub must agree", func(t *testing.T) {
			r := b.recorder(t)
			name, _ := r.Name()
			if _, err := r.Append(t.Context(), &labv1.AppendRequest{Name: name, Text: "x"}); err != nil {
				t.Fatal(err)
			}
			_, err := r.Append(t.Context(), &labv1.AppendRequest{Name: name + "2", Text: "x"})
			keyError(t, err, durablev1.ErrorReason_ERROR_REASON_KEY_CONFLICT)
			same(t, "texts", texts(t, r), []string{"x"})
		})
		t.Run("so must later messages of a stream", func(t *testing.T) {
			r := b.recorder(t)
			stream, err := r.Collect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&labv1.CollectRequest{Text: "good"}); err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&labv1.CollectRequest{Name: "another", Text: "bad"}) // may meet the end
			_, err = stream.CloseAndReceive()
			keyError(t, err, durablev1.ErrorReason_ERROR_REASON_KEY_CONFLICT)
			same(t, "texts", texts(t, r), []string{"good"})
		})
	})
}

func keyError(t *testing.T, err error, reason durablev1.ErrorReason) {
	t.Helper()
	if got := connect.CodeOf(err); err == nil || got != connect.CodeInvalidArgument {
		t.Errorf("code %v, want invalid_argument: %v", got, err)
	}
	if got := errorInfo(err).GetReason(); got != reason {
		t.Errorf("reason %v, want %v: %v", got, reason, err)
	}
}
