import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

import { getByName, type StubOptions } from "@durable-go/client";
import { WebSocket, WebSocketServer } from "ws";

import { RoomService } from "./gen/chat/v1/chat_pb.js";

/** One WebSocket as the server sees it. */
export class Peer {
  /** Counted from 1. */
  readonly number: number;
  readonly url: URL;
  readonly protocol: string;
  /** Texts as they are, binary messages as bytes. */
  readonly messages: (string | Buffer)[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  readonly #changed = new EventTarget();

  constructor(
    number: number,
    readonly socket: WebSocket,
    req: IncomingMessage,
  ) {
    this.number = number;
    this.url = new URL(req.url ?? "", "http://server");
    this.protocol = socket.protocol;
    socket.on("message", (data: Buffer, binary: boolean) => {
      this.messages.push(binary ? data : data.toString());
      this.#changed.dispatchEvent(new Event("message"));
    });
    this.closed = new Promise((resolve) => {
      socket.on("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
  }

  send(...messages: object[]) {
    for (const m of messages) {
      this.socket.send(JSON.stringify(m));
    }
  }

  /** Resolves with the first n messages, once there are as many. */
  async received(n: number) {
    while (this.messages.length < n) {
      await new Promise((resolve) => this.#changed.addEventListener("message", resolve, { once: true }));
    }
    return this.messages.slice(0, n);
  }
}

/** Serves until the end of the test, and returns a stub whose connections go to script. */
export async function serve(t: TestContext, script: (peer: Peer) => unknown, options: StubOptions = {}) {
  const http = createServer((_, res) => res.writeHead(404).end());
  const sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => [...offered][0] ?? false,
  });
  const peers: Peer[] = [];
  http.on("upgrade", (req, socket, head) => {
    sockets.handleUpgrade(req, socket, head, (ws) => {
      const peer = new Peer(peers.length + 1, ws, req);
      peers.push(peer);
      script(peer);
    });
  });
  http.listen(0, "127.0.0.1");
  await new Promise((resolve) => http.once("listening", resolve));
  t.after(() => {
    for (const peer of peers) {
      peer.socket.terminate();
    }
    http.close();
  });
  const url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  return { http, url, peers, room: getByName(RoomService, url, "lobby", { webSocket: WebSocket, ...options }) };
}

/** Returns all that iterating gives, and the error that it ends with. */
export async function collect<T>(from: AsyncIterable<T>): Promise<{ got: T[]; error: unknown }> {
  const got: T[] = [];
  try {
    for await (const m of from) {
      got.push(m);
    }
  } catch (error) {
    return { got, error };
  }
  return { got, error: undefined };
}
