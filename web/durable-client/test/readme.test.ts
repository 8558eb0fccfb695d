import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";

import { WebSocketServer } from "ws";

const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");
const example = read("../test/readme.ts");

test("the example of README.md is the one that is tested", () => {
  const [, block] = read("../README.md").match(/^```ts\n(.*?)^```$/ms) ?? [];
  assert.equal(block, example, "the example of README.md differs from test/readme.ts");
});

test("the example runs", async (t) => {
  const keys: unknown[] = [];
  const http = createServer((req, res) => {
    keys.push(req.headers["idempotency-key"]);
    res.writeHead(200, { "Content-Type": "application/json" }).end('{"number":"42"}');
  });
  const sockets = new WebSocketServer({ server: http, path: "/-/name/lobby/chat.v1.RoomService/Join" });
  const closed = new Promise<number>((resolve) => {
    sockets.on("connection", (ws, req) => {
      if (req.url?.endsWith("0")) {
        ws.once("message", (data) => {
          ws.send(`{"text":"got ${JSON.parse(String(data)).text}"}`);
          ws.close(1001);
        });
      } else {
        ws.send('{"text":"bye"}');
        ws.on("close", resolve);
      }
    });
  });
  http.listen(0, "127.0.0.1");
  await new Promise((resolve) => http.once("listening", resolve));
  t.after(() => http.close());

  // The example has an address of its own, and on Node 20 there is no WebSocket.
  const script = `
    import WebSocket from "ws";
    globalThis.WebSocket ??= WebSocket;
    const there = (url) => String(url).replace(":8080", ":${(http.address() as { port: number }).port}");
    const { fetch, WebSocket: Socket } = globalThis;
    globalThis.fetch = (url, init) => fetch(there(url), init);
    globalThis.WebSocket = class extends Socket {
      constructor(url, protocols) { super(there(url), protocols); }
    };
    await import(${JSON.stringify(new URL("readme.js", import.meta.url).href)});`;
  const node = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  node.stdout.on("data", (data) => (out += data));
  const code = await new Promise((resolve) => node.on("close", resolve));
  assert.equal(code, 0, `the exit code of the example, which printed\n${out}`);
  assert.match(out, /^posted number 42\ngot hello\n\[unavailable\] .* again in [\d.]+ ms\nbye\n$/);
  assert.equal(await closed, 1000, "what the example closed with");
  assert.match(String(keys[0]), /^[0-9a-f]{32}$/);
});
