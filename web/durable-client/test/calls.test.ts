import assert from "node:assert/strict";
import { createServer } from "node:net";
import { test, type TestContext } from "node:test";

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import { getById, getByName, type StubOptions } from "@durable-go/client";

import { RoomService } from "./gen/chat/v1/chat_pb.js";

type Answer = () => Response | Promise<Response>;

/** A lobby whose nth request gets the nth answer, and those after the last the last one. */
function lobby(answers: Answer[], options: StubOptions = {}) {
  const requests: { url: string; headers: Headers; at: number }[] = [];
  const start = Date.now();
  const fetch: typeof globalThis.fetch = async (url, init) => {
    init?.signal?.throwIfAborted();
    requests.push({ url: String(url), headers: new Headers(init?.headers), at: Date.now() - start });
    return answers[Math.min(requests.length, answers.length) - 1]!();
  };
  return { requests, room: getByName(RoomService, "http://example.test/api/", "lobby", { ...options, fetch }) };
}

const posted: Answer = () => Response.json({ number: "7" });
const noNetwork: Answer = () => Promise.reject(new TypeError("fetch failed"));
const badGateway: Answer = () => new Response("<html>", { status: 503 });

function refused(status: number, code: string, info?: { remote?: boolean; retryable?: boolean; overloaded?: boolean }): Answer {
  const details: { type: string; value: string }[] = [];
  if (info) {
    const w = new BinaryWriter().tag(2, 2).string("room").tag(9, 2).fork().tag(2, 0).int64(-1).join();
    for (const [field, set] of [info.remote, info.retryable, info.overloaded].entries()) {
      w.tag(field + 4, 0).bool(set === true);
    }
    details.push({ type: "durable.v1.ErrorInfo", value: Buffer.from(w.finish()).toString("base64") });
  }
  return () => Response.json({ code, message: "refused", details }, { status });
}

/** Lets ms milliseconds of mocked time go by, and all that happens in them happen. */
async function advance(t: TestContext, ms: number) {
  for (let i = 0; i <= ms; i += 10) {
    await new Promise((resolve) => setImmediate(resolve));
    if (i < ms) {
      t.mock.timers.tick(10);
    }
  }
}

function mockTime(t: TestContext, random: number) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  t.mock.method(Math, "random", () => random);
}

test("the URL names the object", async () => {
  const urls: string[] = [];
  const options: StubOptions = {
    fetch: async (url) => {
      urls.push(String(url));
      return posted();
    },
  };
  for (const [base, name, want] of [
    ["http://example.test", "lobby", "http://example.test/-/name/lobby/chat.v1.RoomService/Post"],
    ["http://example.test/api/", "a/b c%é", "http://example.test/api/-/name/a%2Fb%20c%25%C3%A9/chat.v1.RoomService/Post"],
    ["", "...", "/-/name/.../chat.v1.RoomService/Post"],
  ] as const) {
    await getByName(RoomService, base, name, options).post({});
    assert.equal(urls.pop(), want, `base URL ${base}, name ${name}`);
  }
  await getById(RoomService, "http://example.test", "00ff", options).post({});
  assert.equal(urls.pop(), "http://example.test/-/id/00ff/chat.v1.RoomService/Post");

  for (const name of ["", ".", ".."]) {
    assert.throws(
      () => getByName(RoomService, "http://example.test", name, options),
      (err) => err instanceof ConnectError && err.code === Code.InvalidArgument,
      `a stub for the name "${name}"`,
    );
  }
});

test("responses are typed, and a method may be called open", async () => {
  const { room, requests } = lobby([posted, () => Response.json({ opened: true })]);
  assert.equal((await room.post({ text: "hi" })).number, 7n);
  assert.equal((await room.open({})).opened, true);
  assert.match(requests[1]!.url, /\/Open$/);
});

test("a server stream is that of connect-web, and is not repeated", async () => {
  const envelope = (flags: number, json: string) => {
    const head = Buffer.from([flags, 0, 0, 0, 0]);
    head.writeUInt32BE(Buffer.byteLength(json), 1);
    return Buffer.concat([head, Buffer.from(json)]);
  };
  const body = Buffer.concat([envelope(0, '{"text":"a"}'), envelope(0, '{"text":"b"}'), envelope(2, "{}")]);
  const { room, requests } = lobby([
    () => new Response(body, { headers: { "Content-Type": "application/connect+json" } }),
    noNetwork,
  ]);
  const texts = [];
  for await (const res of room.watch({ from: 1n })) {
    texts.push(res.text);
  }
  assert.deepEqual(texts, ["a", "b"]);
  await assert.rejects(async () => {
    for await (const _ of room.watch({}, { headers: { "Idempotency-Key": "k" } })) {
      assert.fail("a response without a network");
    }
  }, /fetch failed/);
  assert.equal(requests.length, 2, "requests in all");
});

test("the methods whose requests stream are not calls", () => {
  const { room } = lobby([posted]);
  assert.deepEqual(Object.keys(room).sort(), ["$open", "history", "open", "post", "watch"]);
});

test("idempotency keys", async () => {
  const { room, requests } = lobby([posted]);
  const sent = () => requests.at(-1)!.headers.get("Idempotency-Key");

  await room.post({}, { headers: { "X-Other": "other" } });
  assert.equal(sent(), null, "the key of a call without one");
  await room.post({}, { idempotencyKey: "my-key", headers: { "X-Other": "other" } });
  assert.equal(sent(), "my-key");
  assert.equal(requests.at(-1)!.headers.get("X-Other"), "other", "another header of the call");

  await room.post({}, { idempotencyKey: true });
  const first = sent();
  assert.match(first ?? "none", /^[0-9a-f]{32}$/);
  await room.post({}, { idempotencyKey: true });
  assert.notEqual(sent(), first, "the random key of a second call");
  await room.post({}, { idempotencyKey: "x".repeat(255) });
  assert.equal(sent()?.length, 255);

  const before = requests.length;
  for (const key of ["", "x".repeat(256), "a b", "a\nb", "é", "\x7f"]) {
    await assert.rejects(
      room.post({}, { idempotencyKey: key }),
      (err) => err instanceof ConnectError && err.code === Code.InvalidArgument,
      `a call with the key ${JSON.stringify(key)}`,
    );
  }
  assert.equal(requests.length, before, "requests after those with bad keys");
});

for (const { name, answers, keyed = 1, plain = 1, readOnly = 1 } of [
  { name: "the network fails", answers: [noNetwork], keyed: 5, readOnly: 5 },
  { name: "a proxy answers 503", answers: [badGateway], keyed: 5, readOnly: 5 },
  { name: "the second attempt is answered", answers: [noNetwork, posted], keyed: 2, readOnly: 2 },
  { name: "the fifth attempt is answered", answers: [noNetwork, noNetwork, badGateway, badGateway, posted], keyed: 5, readOnly: 5 },
  { name: "the runtime says that it can be repeated", answers: [refused(503, "unavailable", { retryable: true })], keyed: 5, readOnly: 5 },
  { name: "it can be repeated, with another code", answers: [refused(409, "aborted", { retryable: true })], keyed: 5, readOnly: 5 },
  { name: "the object is overloaded", answers: [refused(503, "unavailable", { retryable: true, overloaded: true })] },
  { name: "the handler answers unavailable", answers: [refused(503, "unavailable", { remote: true })] },
  { name: "the handler answers not_found", answers: [refused(404, "not_found", { remote: true })] },
  { name: "not_found without more", answers: [refused(404, "not_found")] },
  { name: "the answer is no JSON", answers: [() => new Response("{", { headers: { "Content-Type": "application/json" } })] },
  { name: "it is answered", answers: [posted] },
] as { name: string; answers: Answer[]; keyed?: number; plain?: number; readOnly?: number }[]) {
  test(`attempts where ${name}`, async (t) => {
    mockTime(t, 0);
    for (const [kind, want, call] of [
      ["with a key", keyed, (l: ReturnType<typeof lobby>) => l.room.post({}, { idempotencyKey: "k" })],
      ["without a key", plain, (l: ReturnType<typeof lobby>) => l.room.post({})],
      ["that only reads", readOnly, (l: ReturnType<typeof lobby>) => l.room.history({})],
    ] as const) {
      const it = lobby(answers);
      let done = false;
      void call(it).then(
        () => (done = true),
        () => (done = true),
      );
      await advance(t, 2000);
      assert.equal(done, true, `a call ${kind} has ended`);
      assert.equal(it.requests.length, want, `attempts of a call ${kind}`);
      const keys = new Set(it.requests.map((r) => r.headers.get("Idempotency-Key")));
      assert.deepEqual([...keys], [kind === "with a key" ? "k" : null], `the keys of a call ${kind}`);
    }
  });
}

for (const { random, want } of [
  { random: 0, want: [0, 100, 300, 700, 1500] },
  { random: 1, want: [0, 50, 150, 350, 750] },
]) {
  test(`pauses between attempts, with the random number ${random}`, async (t) => {
    mockTime(t, random);
    const { room, requests } = lobby([badGateway]);
    const call = assert.rejects(
      room.post({}, { idempotencyKey: true }),
      (err) => err instanceof ConnectError && err.code === Code.Unavailable,
    );
    await advance(t, 5000);
    await call;
    assert.deepEqual(requests.map((r) => r.at), want);
  });
}

test("no attempt begins after ten seconds", async (t) => {
  mockTime(t, 0);
  const slow: Answer = () => new Promise((_, reject) => setTimeout(() => reject(new TypeError("gone")), 4000));
  const { room, requests } = lobby([slow]);
  const call = assert.rejects(room.post({}, { idempotencyKey: true }), /gone/);
  await advance(t, 30_000);
  await call;
  assert.deepEqual(requests.map((r) => r.at), [0, 4100, 8300]);
});

test("a call that is canceled in a pause ends at once", async (t) => {
  mockTime(t, 0);
  const { room, requests } = lobby([noNetwork]);
  const abort = new AbortController();
  const call = assert.rejects(
    room.post({}, { idempotencyKey: true, signal: abort.signal }),
    (err) => err instanceof ConnectError && err.code === Code.Canceled,
  );
  await advance(t, 50);
  abort.abort();
  await call;
  await advance(t, 3000);
  assert.equal(requests.length, 1, "attempts");
});

test("interceptors run for each attempt, from the same headers", async (t) => {
  mockTime(t, 0);
  let runs = 0;
  const { room, requests } = lobby([noNetwork, noNetwork, posted], {
    interceptors: [
      (next) => (req) => {
        req.header.append("X-Run", String(++runs));
        return next(req);
      },
    ],
  });
  const call = room.post({}, { idempotencyKey: true });
  await advance(t, 1000);
  assert.equal((await call).number, 7n);
  assert.deepEqual(requests.map((r) => r.headers.get("X-Run")), ["1", "2", "3"]);
});

test("a server that is not there is what counts as a network that failed", async (t) => {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));

  t.mock.method(Math, "random", () => 1);
  const fetched = t.mock.method(globalThis, "fetch");
  const room = getByName(RoomService, `http://127.0.0.1:${port}`, "lobby");
  await assert.rejects(room.post({}, { idempotencyKey: true }), ConnectError);
  assert.equal(fetched.mock.callCount(), 5, "attempts");
});
