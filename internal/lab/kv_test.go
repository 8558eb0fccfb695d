package lab_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
)

// numbered returns n keys in order.
func numbered(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%04d", i)
	}
	return keys
}

func TestKV(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("KV-01 put and get", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(get("a"), put("a", "1"), get("a"))
			same(t, "absent", res[0].GetOk(), false)
			same(t, "present", show(res[2]), []string{"a=1"})
			same(t, "in the next turn", show(o.do(get("a"))[0]), []string{"a=1"})
		})
		t.Run("KV-02 the last value wins", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"), put("a", "2"))
			o.do(put("a", "3"))
			same(t, "pairs", o.pairs(), []string{"a=3"})
		})
		t.Run("KV-03 many keys come in key order", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("b", "a", "c"))
			res := o.do(put("d", "new"), getMany("d", "c", "missing", "a"))
			same(t, "pairs", show(res[1]), []string{"a=va", "c=vc", "d=new"})
		})
		t.Run("KV-04 more than 128 keys", func(t *testing.T) {
			o := b.kv(t)
			keys := numbered(129)
			o.do(put("k0000", "kept"))
			for _, step := range []*labv1.Step{putMany(keys...), getMany(keys...), deleteMany(keys...)} {
				res := o.do(tolerate(step))
				same(t, "kind", res[0].GetKind(), "LimitError: keys in one call, 129 of 128")
			}
			same(t, "pairs", o.pairs(), []string{"k0000=kept"})
			_, err := o.try(putMany(keys...))
			want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
				Limit:  &durablev1.Limit{Name: "keys in one call", Max: 128, Actual: 129},
			}}.check(t, err, o)
		})
		t.Run("KV-05 exactly 128 keys", func(t *testing.T) {
			o := b.kv(t)
			keys := numbered(128)
			res := o.do(putMany(keys...), getMany(keys...), deleteMany(keys...))
			same(t, "got", len(res[1].GetPairs()), 128)
			same(t, "deleted", res[2].GetCount(), int64(128))
		})
		t.Run("KV-06 KV-07 delete tells what existed", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("a", "b", "c"))
			res := o.do(del("a"), del("a"), deleteMany("a", "b", "x"), put("n", "1"), del("n"), del("n"))
			same(t, "first", res[0].GetOk(), true)
			same(t, "again", res[1].GetOk(), false)
			same(t, "many", res[2].GetCount(), int64(1))
			same(t, "of this turn", res[4].GetOk(), true)
			same(t, "of this turn, again", res[5].GetOk(), false)
			same(t, "pairs", o.pairs(), []string{"c=vc"})
		})
		t.Run("KV-08 nil is refused and empty is a value", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(tolerate(&labv1.Step{Do: &labv1.Step_PutNil{PutNil: []byte("a")}}), put("e", ""), get("e"), get("a"))
			same(t, "nil", res[0].GetKind(), "ErrInvalidArgument")
			same(t, "empty", res[2].GetOk(), true)
			same(t, "refused", res[3].GetOk(), false)
			same(t, "empty in the next turn", o.do(get("e"))[0].GetOk(), true)
		})
		t.Run("KV-09 bytes come back as they were", func(t *testing.T) {
			o := b.kv(t)
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			o.do(put(string(all), string(all)))
			same(t, "pair", o.do(get(string(all)))[0].GetPairs()[0].GetValue(), all)
		})
		t.Run("KV-10 values are copied", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(&labv1.Step{Do: &labv1.Step_Copies{Copies: &labv1.Pair{Key: []byte("a"), Value: []byte("text")}}})
			same(t, "in the turn", res[0].GetOk(), true)
			same(t, "stored", o.pairs(), []string{"a=text"})
		})
		t.Run("KV-12 the unconfirmed pairs are the same pairs", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(unconfirmed(put("a", "1")), get("a"), put("b", "2"), unconfirmed(get("b")), unconfirmed(list()))
			same(t, "written unconfirmed", show(res[1]), []string{"a=1"})
			same(t, "read unconfirmed", show(res[3]), []string{"b=2"})
			same(t, "list", show(res[4]), []string{"a=1", "b=2"})
			same(t, "next turn", o.pairs(), []string{"a=1", "b=2"})
		})
		t.Run("KV-15 empty keys, NUL and letter case", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"), put("A", "2"), put("", "3"), put("\x00", "4"), put("a\x00", "5"), put("a\x00b", "6"))
			keys := []string{}
			for _, p := range o.view(list())[0].GetPairs() {
				keys = append(keys, string(p.GetKey()))
			}
			same(t, "keys", keys, []string{"", "\x00", "A", "a", "a\x00", "a\x00b"})
			same(t, "empty key", o.do(get(""))[0].GetPairs()[0].GetValue(), []byte("3"))
		})
		t.Run("KV-17 duplicate keys", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(put("a", "1"), getMany("a", "a"), deleteMany("a", "a"))
			same(t, "got", show(res[1]), []string{"a=1"})
			same(t, "deleted", res[2].GetCount(), int64(1))
		})
	})
}

func TestKVList(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		o := b.kv(t)
		o.do(putMany("a", "b", "ba", "bb", "c"))
		// What the turn wrote and deleted belongs to the list: KV-29.
		lists := func(t *testing.T, opts ...func(*labv1.List)) []string {
			t.Helper()
			keys := func(res *labv1.Result) []string {
				out := []string{}
				for _, p := range res.GetPairs() {
					out = append(out, string(p.GetKey()))
				}
				return out
			}
			stored := keys(o.view(list(opts...))[0])
			fresh := b.kv(t, "fresh")
			res := fresh.do(deleteAll(), putMany("a", "b", "ba", "bb", "c", "x"), del("x"), list(opts...), deleteAll())
			same(t, "list of unflushed pairs", keys(res[3]), stored)
			return stored
		}
		for _, c := range []struct {
			name string
			opts []func(*labv1.List)
			want []string
		}{
			{"KV-20 everything in order", nil, []string{"a", "b", "ba", "bb", "c"}},
			{"KV-21 start is included", []func(*labv1.List){start("b")}, []string{"b", "ba", "bb", "c"}},
			{"KV-21 startAfter is excluded", []func(*labv1.List){startAfter("b")}, []string{"ba", "bb", "c"}},
			{"KV-21 end is excluded", []func(*labv1.List){end("bb")}, []string{"a", "b", "ba"}},
			{"KV-21 an empty start", []func(*labv1.List){start("")}, []string{"a", "b", "ba", "bb", "c"}},
			{"KV-21 an empty end", []func(*labv1.List){end("")}, []string{}},
			{"KV-23 prefix", []func(*labv1.List){prefix("b")}, []string{"b", "ba", "bb"}},
			{"KV-23 prefix and start", []func(*labv1.List){prefix("b"), start("ba")}, []string{"ba", "bb"}},
			{"KV-23 prefix and an earlier start", []func(*labv1.List){prefix("b"), start("a")}, []string{"b", "ba", "bb"}},
			{"KV-23 prefix and end", []func(*labv1.List){prefix("b"), end("bb")}, []string{"b", "ba"}},
			{"KV-23 prefix and a later end", []func(*labv1.List){prefix("b"), end("z")}, []string{"b", "ba", "bb"}},
			{"KV-23 prefix and startAfter", []func(*labv1.List){prefix("b"), startAfter("b")}, []string{"ba", "bb"}},
			{"KV-24 reverse keeps the bounds", []func(*labv1.List){start("b"), end("c"), reverse()}, []string{"bb", "ba", "b"}},
			{"KV-25 limit", []func(*labv1.List){limit(2)}, []string{"a", "b"}},
			{"KV-25 limit and reverse", []func(*labv1.List){limit(2), reverse()}, []string{"c", "bb"}},
			{"KV-25 limit beyond the end", []func(*labv1.List){limit(100)}, []string{"a", "b", "ba", "bb", "c"}},
			{"KV-27 start at the end", []func(*labv1.List){start("b"), end("b")}, []string{}},
			{"KV-27 start beyond the end", []func(*labv1.List){start("c"), end("b")}, []string{}},
			{"KV-27 prefix outside", []func(*labv1.List){prefix("a"), start("b")}, []string{}},
			{"KV-27 prefix outside, reverse", []func(*labv1.List){prefix("c"), end("b"), reverse()}, []string{}},
			{"KV-28 the next page", []func(*labv1.List){startAfter("ba"), limit(1)}, []string{"bb"}},
		} {
			t.Run(c.name, func(t *testing.T) { same(t, "keys", lists(t, c.opts...), c.want) })
		}
		for _, c := range []struct {
			name string
			opts []func(*labv1.List)
		}{
			{"KV-22 start and startAfter", []func(*labv1.List){start("a"), startAfter("a")}},
			{"KV-26 limit of 0", []func(*labv1.List){limit(0)}},
			{"KV-26 negative limit", []func(*labv1.List){limit(-1)}},
		} {
			t.Run(c.name, func(t *testing.T) {
				same(t, "kind", o.do(tolerate(list(c.opts...)))[0].GetKind(), "ErrInvalidArgument")
				_, err := o.try(list(c.opts...))
				want{code: connect.CodeInvalidArgument, info: &durablev1.ErrorInfo{
					Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE,
				}}.check(t, err, o)
			})
		}
		t.Run("KV-23 prefix of 0xff bytes", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("\xff", "1"), put("\xff\xff", "2"), put("\xfe\xff", "3"))
			same(t, "one", len(o.view(list(prefix("\xff")))[0].GetPairs()), 2)
			same(t, "two", len(o.view(list(prefix("\xff\xff"), reverse()))[0].GetPairs()), 1)
		})
		t.Run("KV-29 unflushed puts and deletes", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("a", "b", "c"))
			res := o.do(del("a"), put("b", "new"), put("bb", "more"), list(), list(reverse()), list(limit(1)))
			same(t, "list", show(res[3]), []string{"b=new", "bb=more", "c=vc"})
			same(t, "reverse", show(res[4]), []string{"c=vc", "bb=more", "b=new"})
			same(t, "limit", show(res[5]), []string{"b=new"})
		})
		t.Run("KV-30 KV-31 lists are live together and show their start", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("a", "b", "c"))
			res := o.do(
				put("d", "unflushed"),
				list(during(del("c"), del("d"), put("b", "changed"), put("e", "added"), list())),
				list(),
			)
			same(t, "outer", show(res[1]), []string{"a=va", "b=vb", "c=vc", "d=unflushed"})
			same(t, "inner", show(res[1].GetResults()[4]), []string{"a=va", "b=changed", "e=added"})
			same(t, "after", show(res[2]), []string{"a=va", "b=changed", "e=added"})
		})
		t.Run("KV-31 a list ends when its turn is left", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("a", "b", "c"))
			res := o.do(tolerate(list(during(await()))))
			same(t, "kind", res[0].GetKind(), "ErrTxDone")
			same(t, "pairs", show(res[0]), []string{"a=va"})
		})
		t.Run("KV-32 byte order", func(t *testing.T) {
			o := b.kv(t)
			keys := []string{"Z", "a", "é", "\uffee", "\U0001f600"}
			for _, key := range slices.Backward(keys) {
				o.do(put(key, ""))
			}
			var got []string
			for _, p := range o.view(list())[0].GetPairs() {
				got = append(got, string(p.GetKey()))
			}
			same(t, "keys", got, keys)
		})
	})
}

func TestKVDeleteAll(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("KV-40 everything is gone at once", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("a", "b"))
			res := o.do(put("c", "1"), deleteAll(), get("a"), get("c"), list(), getMany("a", "b"), del("a"))
			same(t, "committed", res[2].GetOk(), false)
			same(t, "unflushed", res[3].GetOk(), false)
			same(t, "list", show(res[4]), []string{})
			same(t, "many", show(res[5]), []string{})
			same(t, "delete", res[6].GetOk(), false)
			same(t, "next turn", o.pairs(), []string{})
		})
		t.Run("KV-41 all or nothing", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany(numbered(100)...))
			_, err := o.try(deleteAll(), put("x", "1"), fail("no"))
			want{code: connect.CodeUnknown, message: "no"}.check(t, err, o)
			same(t, "pairs", len(o.pairs()), 100)
		})
		t.Run("KV-46 what was put before and after", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("old", "1"))
			o.do(put("before", "1"), deleteAll(), put("after", "1"))
			same(t, "pairs", o.pairs(), []string{"after=1"})
		})
		t.Run("KV-46 KV-44 twice in a turn", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("old", "1"), deleteAll(), put("mid", "1"), deleteAll(), put("old", "2"))
			same(t, "pairs", o.pairs(), []string{"old=2"})
		})
		t.Run("KV-47 a counter starts again", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("n", "7"))
			o.do(deleteAll())
			same(t, "value", o.do(get("n"))[0].GetOk(), false)
			o.do(put("n", "1"))
			same(t, "pairs", o.pairs(), []string{"n=1"})
		})
		t.Run("KV-49 the object ceases to exist", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			same(t, "listed", slices.Contains(b.ListIDs("lab.kv"), o.ID()), true)
			same(t, "exists", o.do(exists())[0].GetOk(), true)
			o.do(deleteAll())
			same(t, "listed after", slices.Contains(b.ListIDs("lab.kv"), o.ID()), false)
			same(t, "exists after", o.do(exists())[0].GetOk(), false)
			b.Evict(o.Ref)
			same(t, "listed when evicted", slices.Contains(b.ListIDs("lab.kv"), o.ID()), false)
		})
		t.Run("KV-49 unless the turn writes again", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			o.do(deleteAll(), put("b", "1"))
			same(t, "listed", slices.Contains(b.ListIDs("lab.kv"), o.ID()), true)
		})
	})
}

func TestKVLimits(t *testing.T) {
	long := strings.Repeat("k", 2048)
	big := strings.Repeat("v", 2<<20)
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("KV-50 key of 2 KiB", func(t *testing.T) {
			o := b.kv(t)
			o.do(put(long, "1"))
			for _, step := range []*labv1.Step{put(long+"k", "1"), get(long + "k"), del(long + "k"), getMany(long + "k"), putMany("a", long+"k")} {
				res := o.do(tolerate(step))
				same(t, "kind", res[0].GetKind(), "LimitError: key bytes, 2049 of 2048")
			}
			same(t, "pairs", len(o.pairs()), 1)
		})
		t.Run("KV-51 value of 2 MiB", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", big))
			res := o.do(tolerate(put("b", big+"v")), get("b"))
			same(t, "kind", res[0].GetKind(), "LimitError: value bytes, 2097153 of 2097152")
			same(t, "stored", res[1].GetOk(), false)
			if got := o.do(get("a"))[0].GetPairs()[0].GetValue(); !bytes.Equal(got, []byte(big)) {
				t.Errorf("%d bytes came back, want %d", len(got), len(big))
			}
		})
	})
}

func TestKVLimitOptions(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("KV-04 KV-50 KV-51 limits are options", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(
				tolerate(putMany("1", "2", "3")),
				tolerate(put("12345", "")),
				tolerate(put("1", "123456789")),
				putMany("1", "2"), put("1234", "12345678"),
			)
			same(t, "keys", res[0].GetKind(), "LimitError: keys in one call, 3 of 2")
			same(t, "key", res[1].GetKind(), "LimitError: key bytes, 5 of 4")
			same(t, "value", res[2].GetKind(), "LimitError: value bytes, 9 of 8")
			_, err := o.try(put("1", "123456789"))
			want{
				code:    connect.CodeResourceExhausted,
				message: "9 value bytes, the limit is 8",
				info: &durablev1.ErrorInfo{
					Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
					Limit:  &durablev1.Limit{Name: "value bytes", Max: 8, Actual: 9},
				},
			}.check(t, err, o)
		})
	}, durable.WithLimits(durable.Limits{MaxBatchKeys: 2, MaxKeyBytes: 4, MaxValueBytes: 8}))
}
