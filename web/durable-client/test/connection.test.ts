import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { closeCode, getByName, type OpenOptions } from "@durable-go/client";
import { WebSocket } from "ws";

import { DoorService, JoinRequestSchema, JoinResponseSchema, RoomService } from "./gen/chat/v1/chat_pb.js";
import { collect, serve } from "./server.js";

const { join, watch } = RoomService.method;

/** Reports what is wrong with the end of a connection. */
function wantEnd(error: unknown, code: Code, closed: number | undefined, text: RegExp) {
  assert.ok(error instanceof ConnectError, `the end is a ConnectError, not ${error}`);
  assert.equal(Code[error.code], Code[code], "the Connect code");
  assert.equal(closeCode(error), closed, "the close code");
  assert.match(error.rawMessage, text);
}

/** Makes pauses as short as they can be. */
const noPauses = (t: TestContext) => t.mock.method(Math, "random", () => 0);

test("a connection in JSON", async (t) => {
  const { room, peers } = await serve(t, async (peer) => {
    const [first] = await peer.received(1);
    peer.send({ text: `re: ${JSON.parse(String(first)).text}`, number: "9007199254740993", later: true });
    peer.socket.close(1000);
  });
  const conn = room.$open(join);
  conn.send({ text: "hi" });
  const { got, error } = await collect(conn);
  assert.equal(error, undefined);
  assert.deepEqual(got, [create(JoinResponseSchema, { text: "re: hi", number: 9007199254740993n })]);
  assert.equal(peers[0]!.url.href, "http://server/-/name/lobby/chat.v1.RoomService/Join");
  assert.equal(peers[0]!.protocol, "durable.v1.json");
  assert.deepEqual(peers[0]!.messages, ['{"text":"hi"}']);
});

test("a connection in binary", async (t) => {
  const { room, peers } = await serve(
    t,
    async (peer) => {
      await peer.received(2);
      peer.socket.send(toBinary(JoinResponseSchema, create(JoinResponseSchema, { number: -1n })));
      peer.socket.send(new Uint8Array()); // a message without fields
      peer.socket.close(1000);
    },
    { useBinaryFormat: true },
  );
  const conn = room.$open(join);
  conn.send({ text: "hi" });
  conn.send({});
  const { got, error } = await collect(conn);
  assert.equal(error, undefined);
  assert.deepEqual(got, [create(JoinResponseSchema, { number: -1n }), create(JoinResponseSchema)]);
  assert.equal(peers[0]!.protocol, "durable.v1.proto");
  assert.deepEqual(peers[0]!.messages, [
    Buffer.from(toBinary(JoinRequestSchema, create(JoinRequestSchema, { text: "hi" }))),
    Buffer.alloc(0),
  ]);
});

test("names and ids in the URL of a connection", async (t) => {
  const { url, peers } = await serve(t, (peer) => peer.socket.close(1000));
  await collect(getByName(RoomService, `${url}/`, "a/b c%é?", { webSocket: WebSocket }).$open(join));
  assert.equal(peers[0]!.url.pathname, "/-/name/a%2Fb%20c%25%C3%A9%3F/chat.v1.RoomService/Join");
});

test("a server stream begins with its request, on each WebSocket", async (t) => {
  noPauses(t);
  const { room, peers } = await serve(t, async (peer) => {
    await peer.received(1);
    peer.send({ text: `of ${peer.number}` });
    peer.socket.close(peer.number < 3 ? 1001 : 1000);
  });
  const { got, error } = await collect(room.$open(watch, { request: { from: 5n }, reconnect: true }));
  assert.equal(error, undefined);
  assert.deepEqual(got.map((m) => m.text), ["of 1", "of 2", "of 3"]);
  assert.deepEqual(peers.map((p) => p.messages), [['{"from":"5"}'], ['{"from":"5"}'], ['{"from":"5"}']]);
});

for (const [code, want, reason, text] of [
  ...Array.from({ length: 16 }, (_, i) => [4001 + i, 1 + i, "it says why", /^it says why$/] as const),
  [1001, Code.Unavailable, "draining", /^draining$/],
  [1002, Code.Aborted, "bad frame", /^bad frame$/],
  [1005, Code.Unavailable, "", /closed with code 1005/],
  [1006, Code.Unavailable, "", /closed with code 1006/],
  [1009, Code.ResourceExhausted, "", /closed with code 1009/],
  [1011, Code.Aborted, "", /closed with code 1011/],
  [1012, Code.Unavailable, "", /closed with code 1012/],
  [1013, Code.Unavailable, "slow", /^slow$/],
  [3000, Code.Aborted, "of the app", /^of the app$/],
  [3999, Code.Aborted, "", /closed with code 3999/],
  [4000, Code.Aborted, "", /closed with code 4000/],
  [4017, Code.Aborted, "", /closed with code 4017/],
  [4999, Code.Aborted, "", /closed with code 4999/],
] as const) {
  test(`close code ${code}`, async (t) => {
    const { room, peers } = await serve(t, (peer) => {
      peer.send({ text: "before" });
      switch (code) {
        case 1005:
          return peer.socket.close();
        case 1006:
          return setTimeout(() => peer.socket.terminate(), 20); // terminate may drop what was sent
        default:
          return peer.socket.close(code, reason);
      }
    });
    const conn = room.$open(join);
    const { got, error } = await collect(conn);
    wantEnd(error, want as Code, code, text);
    assert.deepEqual(got.map((m) => m.text), ["before"], "what arrived before the end");
    assert.equal(peers.length, 1, "WebSockets");
    assert.throws(() => conn.send({}), (err) => err === error, "sending throws what the connection ended with");
    assert.deepEqual((await collect(conn)).error, error, "iterating again");
  });
}

test("a server that does not upgrade", async (t) => {
  const { url, http } = await serve(t, () => {});
  http.removeAllListeners("upgrade");
  const { error } = await collect(getByName(RoomService, url, "lobby", { webSocket: WebSocket }).$open(join));
  wantEnd(error, Code.Unavailable, 1006, /1006/);
});

for (const { name, binary, frame, text } of [
  { name: "no JSON", frame: '{"text":', text: /cannot read a message from the server: .*JSON/ },
  { name: "JSON of another type", frame: '{"text": 5}', text: /cannot read a message from the server: .*text/ },
  { name: "binary that is cut off", frame: Buffer.from([0x0a, 0x05, 0x61]), binary: true, text: /cannot read a message/ },
]) {
  test(`a message that is ${name}`, async (t) => {
    const { room, peers } = await serve(
      t,
      (peer) => {
        peer.socket.send(frame);
        peer.send({ text: "after" });
      },
      { useBinaryFormat: binary === true },
    );
    const { got, error } = await collect(room.$open(join, { resume: true }));
    wantEnd(error, Code.Internal, undefined, text);
    assert.deepEqual(got, []);
    assert.deepEqual(await peers[0]!.closed, { code: 4013, reason: "cannot read a message" });
    assert.equal(peers.length, 1, "WebSockets");
  });
}

test("what is sent before it is open waits, in order, up to a bound", async (t) => {
  const { room, peers } = await serve(t, async (peer) => {
    await peer.received(3);
    peer.socket.close(1000);
  });
  const conn = room.$open(join, { maxQueued: 2, onOpen: () => conn.send({ text: "hello" }) });
  conn.send({ text: "a" });
  conn.send({ text: "b" });
  assert.throws(
    () => conn.send({ text: "c" }),
    (err) => err instanceof ConnectError && err.code === Code.ResourceExhausted,
  );
  await collect(conn);
  assert.deepEqual(peers[0]!.messages, ['{"text":"hello"}', '{"text":"a"}', '{"text":"b"}']);
});

test("by default a thousand messages wait", async (t) => {
  const { room } = await serve(t, () => {});
  const conn = room.$open(join);
  for (let i = 0; i < 1000; i++) {
    conn.send({});
  }
  assert.throws(() => conn.send({}), /1000 messages wait/);
  conn.close();
});

test("reconnect opens new connections, and tells it", async (t) => {
  noPauses(t);
  const told: string[] = [];
  const ends = [1001, 1005, 1006, 1012, 1013, 4005];
  const { room, peers } = await serve(t, async (peer) => {
    await peer.received(1);
    peer.send({ number: peer.number });
    const end = ends[peer.number - 1]!;
    if (end === 1006) {
      setTimeout(() => peer.socket.terminate(), 20);
    } else {
      peer.socket.close(end === 1005 ? undefined : end);
    }
  });
  const conn = room.$open(join, {
    reconnect: true,
    onOpen: (info) => {
      told.push(JSON.stringify(info));
      conn.send({ text: "hello" });
    },
    onLost: ({ error, delay }) => {
      told.push(`lost by ${closeCode(error)}, ${Code[error.code]}, again in ${delay} ms`);
    },
  });
  const { got, error } = await collect(conn);
  wantEnd(error, Code.NotFound, 4005, /4005/);
  assert.deepEqual(got.map((m) => Number(m.number)), [1, 2, 3, 4, 5, 6]);
  assert.deepEqual(
    told,
    ends.flatMap((end) => ['{"resumed":false,"attempt":1}', `lost by ${end}, Unavailable, again in 0 ms`]).slice(0, -1),
  );
  for (const peer of peers) {
    assert.equal(peer.url.search, "", `the query of WebSocket ${peer.number}`);
    assert.deepEqual(peer.messages, ['{"text":"hello"}'], `what WebSocket ${peer.number} got`);
  }
});

test("what is sent while it is lost arrives on the next WebSocket", async (t) => {
  noPauses(t);
  const { room, peers } = await serve(t, async (peer) => {
    await peer.received(peer.number === 1 ? 1 : 2);
    peer.socket.close(peer.number === 1 ? 1012 : 1000);
  });
  const conn = room.$open(join, {
    resume: true,
    onLost: () => {
      conn.send({ text: "b" });
      conn.send({ text: "c" });
    },
  });
  conn.send({ text: "a" });
  const { error } = await collect(conn);
  assert.equal(error, undefined);
  assert.deepEqual(peers.map((p) => p.messages), [['{"text":"a"}'], ['{"text":"b"}', '{"text":"c"}']]);
});

test("resume goes on after what was received", async (t) => {
  noPauses(t);
  const total = 500;
  let cut = 0;
  const tokens = new Set<string>();
  const { room, peers } = await serve(t, (peer) => {
    const [token = "", received] = peer.url.searchParams.get("resume")!.split(":");
    tokens.add(token);
    assert.match(received ?? "none", /^(0|[1-9][0-9]*)$/, "the count of received messages");
    for (let n = Number(received); n < Math.min(total, Number(received) + 37); n++) {
      peer.send({ number: n });
    }
    if (Number(received) + 37 < total) {
      // In the middle of it: some of the messages above do not arrive.
      setTimeout(() => peer.socket.terminate(), cut++ % 5);
    } else {
      peer.socket.close(1000);
    }
  });
  const opened: string[] = [];
  const { got, error } = await collect(
    room.$open(join, { resume: true, onOpen: (info) => void opened.push(JSON.stringify(info)) }),
  );
  assert.equal(error, undefined);
  assert.deepEqual(got.map((m) => Number(m.number)), Array.from({ length: total }, (_, i) => i), "the messages");
  assert.equal(tokens.size, 1, "tokens");
  assert.match([...tokens][0]!, /^[A-Za-z0-9_-]{16,128}$/);
  assert.ok(peers.length > total / 37, `it took only ${peers.length} WebSockets`);
  assert.deepEqual(opened.slice(0, 2), ['{"resumed":false,"attempt":1}', '{"resumed":true,"attempt":1}']);
  assert.equal(peers[0]!.url.searchParams.get("resume"), `${[...tokens][0]}:0`);
});

test("two connections have two tokens", async (t) => {
  const { room, peers } = await serve(t, (peer) => peer.socket.close(1000));
  await collect(room.$open(join, { resume: true }));
  await collect(room.$open(join, { resume: true }));
  assert.notEqual(peers[0]!.url.search, peers[1]!.url.search);
});

test("what cannot be resumed ends", async (t) => {
  noPauses(t);
  const { room, peers } = await serve(t, (peer) => {
    if (peer.number === 1) {
      peer.send({ text: "first" });
      peer.socket.close(1001);
    } else {
      peer.socket.close(4011, "what was missed is not kept");
    }
  });
  const { got, error } = await collect(room.$open(join, { resume: true }));
  wantEnd(error, Code.OutOfRange, 4011, /what was missed is not kept/);
  assert.deepEqual(got.map((m) => m.text), ["first"]);
  assert.equal(peers.length, 2, "WebSockets");
});

test("resume without reconnecting", async (t) => {
  const { room, peers } = await serve(t, (peer) => peer.socket.close(1001));
  const { error } = await collect(room.$open(join, { resume: true, reconnect: false }));
  wantEnd(error, Code.Unavailable, 1001, /1001/);
  assert.equal(peers.length, 1, "WebSockets");
});

/** A WebSocket that does what the test says. */
class Script {
  static all: Script[] = [];
  binaryType = "";
  readyState = 0;
  readonly at = Date.now();
  readonly sent: unknown[] = [];
  closedWith: unknown[] | undefined;
  #listeners = new Map<string, (event: unknown) => void>();
  constructor(readonly url: string) {
    Script.all.push(this);
  }
  addEventListener(type: string, listener: (event: unknown) => void) {
    this.#listeners.set(type, listener);
  }
  send(data: unknown) {
    this.sent.push(data);
  }
  close(...args: unknown[]) {
    this.readyState = 2;
    this.closedWith = args;
  }
  open() {
    this.readyState = 1;
    this.#listeners.get("open")?.({});
  }
  message(data: string) {
    this.#listeners.get("message")?.({ data });
  }
  lose(code = 1006) {
    this.readyState = 3;
    this.#listeners.get("close")?.({ code, reason: "" });
  }
}

/** Opens a connection over Script, with mocked time. */
function scripted(t: TestContext, random: number, options: OpenOptions = {}) {
  Script.all = [];
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  t.mock.method(Math, "random", () => random);
  const room = getByName(RoomService, "https://example.test", "lobby", { webSocket: Script });
  return {
    conn: room.$open(join, options),
    sockets: Script.all,
    last: () => Script.all.at(-1)!,
    /** Waits until there is one more WebSocket, and returns for how many milliseconds it did. */
    pause() {
      const before = Script.all.length;
      const from = Date.now();
      while (Script.all.length === before) {
        assert.ok(Date.now() - from < 120_000, "no further attempt within two minutes");
        t.mock.timers.tick(1);
      }
      return Date.now() - from;
    },
  };
}

for (const { random, want } of [
  { random: 1, want: [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000] },
  { random: 0.5, want: [125, 250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000] },
]) {
  test(`pauses before attempts, with the random number ${random}`, (t) => {
    const attempts: number[] = [];
    const told: number[] = [];
    const it = scripted(t, random, {
      reconnect: true,
      onOpen: ({ attempt }) => void attempts.push(attempt),
      onLost: ({ delay }) => void told.push(delay),
    });
    assert.equal(it.last().url, "wss://example.test/-/name/lobby/chat.v1.RoomService/Join");
    const pauses = want.map(() => {
      it.last().lose();
      return it.pause();
    });
    assert.deepEqual(pauses, want);
    assert.deepEqual(told, want, "the pauses that onLost was told");
    it.last().open();
    assert.deepEqual(attempts, [want.length + 1], "the attempts that onOpen was told");

    // One that ends soon does not begin the pauses anew, one that lived does.
    t.mock.timers.tick(4999);
    it.last().lose(1013);
    assert.equal(it.pause(), want.at(-1), "the pause after a connection of 4,999 ms");
    it.last().open();
    assert.equal(attempts.at(-1), 1, "the attempt that onOpen was told, after a connection");
    t.mock.timers.tick(5000);
    it.last().lose();
    assert.equal(it.pause(), want[0], "the pause after a connection of 5 s");
    it.conn.close();
  });
}

test("an old WebSocket is not listened to", async (t) => {
  const it = scripted(t, 0, { resume: true });
  const [first] = it.sockets;
  assert.equal(first!.binaryType, "arraybuffer", "what binary messages come as; a browser gives a Blob otherwise");
  first!.open();
  first!.message('{"number":1}');
  first!.lose();
  it.pause();
  first!.message('{"number":2}');
  first!.lose();
  first!.open();
  it.last().open();
  assert.match(it.last().url, /\?resume=[^:%]+(:|%3A)1$/);
  it.last().message('{"number":3}');
  it.last().lose(1000);
  const { got } = await collect(it.conn);
  assert.deepEqual(got.map((m) => Number(m.number)), [1, 3]);
  assert.equal(it.sockets.length, 2, "WebSockets");
});

test("a WebSocket that is closing gets no message", (t) => {
  const it = scripted(t, 0, { reconnect: true });
  it.last().open();
  it.conn.send({ text: "a" });
  it.last().readyState = 2;
  it.conn.send({ text: "b" });
  it.last().lose();
  const [first] = it.sockets;
  it.pause();
  it.last().open();
  assert.deepEqual([first!.sent, it.last().sent], [['{"text":"a"}'], ['{"text":"b"}']]);
  it.conn.close();
});

test("close ends it, with what has arrived", async (t) => {
  const { room, peers } = await serve(t, (peer) => peer.send({ number: 1 }, { number: 2 }));
  const conn = room.$open(join, { resume: true });
  const got = [];
  for await (const res of conn) {
    got.push(Number(res.number));
    if (got.length === 1) {
      await new Promise((resolve) => setTimeout(resolve, 50)); // the second arrives
      conn.close(3001, "bye");
      conn.close(3002, "again");
    }
  }
  assert.deepEqual(got, [1, 2]);
  assert.deepEqual(await peers[0]!.closed, { code: 3001, reason: "bye" });
  assert.throws(
    () => conn.send({}),
    (err) => err instanceof ConnectError && err.code === Code.FailedPrecondition,
  );
  assert.equal(peers.length, 1, "WebSockets");
});

test("a code that cannot be closed with leaves it open", async (t) => {
  const { room } = await serve(t, async (peer) => {
    await peer.received(1);
    peer.socket.close(1000);
  });
  let threw = false;
  const conn = room.$open(join, {
    onOpen: () => {
      try {
        conn.close(1006);
      } catch {
        threw = true;
      }
      conn.send({});
    },
  });
  const { error } = await collect(conn);
  assert.equal(error, undefined);
  assert.equal(threw, true, "closing with code 1006 throws");
});

test("leaving the loop closes it", async (t) => {
  const { room, peers } = await serve(t, (peer) => peer.send({ number: 1 }, { number: 2 }));
  for await (const _ of room.$open(join, { reconnect: true })) {
    break;
  }
  assert.deepEqual(await peers[0]!.closed, { code: 1000, reason: "" });
  assert.equal(peers.length, 1, "WebSockets");
});

test("close while it waits for the next attempt", async (t) => {
  const it = scripted(t, 1, { reconnect: true });
  it.last().lose();
  it.conn.close();
  const { error } = await collect(it.conn);
  assert.equal(error, undefined);
  t.mock.timers.tick(60_000);
  assert.equal(it.sockets.length, 1, "WebSockets");
});

test("each response is for one of those who iterate", async (t) => {
  const { room } = await serve(t, (peer) => {
    for (let n = 0; n < 100; n++) {
      setTimeout(() => peer.send({ number: n }), n / 10);
    }
    setTimeout(() => peer.socket.close(1000), 50);
  });
  const conn = room.$open(join);
  const both = await Promise.all([collect(conn), collect(conn)]);
  const got = both.flatMap((b) => b.got.map((m) => Number(m.number)));
  assert.deepEqual(got.sort((a, b) => a - b), Array.from({ length: 100 }, (_, i) => i));
  assert.deepEqual(both.map((b) => b.error), [undefined, undefined]);
});

test("abort before it is opened", async (t) => {
  const it = scripted(t, 0, { signal: AbortSignal.abort() });
  const { error } = await collect(it.conn);
  wantEnd(error, Code.Canceled, undefined, /aborted/);
  assert.equal(it.sockets.length, 0, "WebSockets");
});

test("abort while it waits for the next attempt", async (t) => {
  const abort = new AbortController();
  const it = scripted(t, 1, { signal: abort.signal, reconnect: true });
  it.last().lose();
  abort.abort(new Error("enough"));
  wantEnd((await collect(it.conn)).error, Code.Canceled, undefined, /^enough$/);
  t.mock.timers.tick(60_000);
  assert.equal(it.sockets.length, 1, "WebSockets");
});

test("abort while it connects", async (t) => {
  const { room } = await serve(t, () => {});
  const abort = new AbortController();
  const conn = room.$open(join, { signal: abort.signal, reconnect: true });
  abort.abort();
  wantEnd((await collect(conn)).error, Code.Canceled, undefined, /aborted/);
});

test("abort while somebody iterates", async (t) => {
  const abort = new AbortController();
  const { room, peers } = await serve(t, (peer) => peer.send({ number: 1 }, { number: 2 }));
  const conn = room.$open(join, { signal: abort.signal, resume: true });
  const got: number[] = [];
  await assert.rejects(
    async () => {
      for await (const res of conn) {
        got.push(Number(res.number));
        await new Promise((resolve) => setTimeout(resolve, 50)); // the second arrives
        abort.abort();
      }
    },
    (err) => err instanceof ConnectError && err.code === Code.Canceled,
  );
  assert.deepEqual(got, [1], "what was delivered before it was aborted");
  assert.deepEqual(await peers[0]!.closed, { code: 1000, reason: "" });
  assert.equal(peers.length, 1, "WebSockets");
});

test("what cannot be opened", () => {
  const scripted = getByName(RoomService, "http://example.test", "lobby", { webSocket: Script });
  assert.throws(
    () => scripted.$open(DoorService.method.listen as never),
    (err) => err instanceof ConnectError && err.code === Code.InvalidArgument && /DoorService is not chat.v1.RoomService/.test(err.message),
  );
  if (!("WebSocket" in globalThis)) {
    assert.throws(
      () => getByName(RoomService, "http://example.test", "lobby").$open(join),
      (err) => err instanceof ConnectError && err.code === Code.Unimplemented && /option webSocket/.test(err.message),
    );
  }
});
