// This file is compiled and not run: each @ts-expect-error is an error where the
// line below it compiles.
import type { DescMessage } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import { getById, getByName, type Connection, type StubOptions, type Stub } from "@durable-go/client";
import WS from "ws";

import {
  DoorService,
  RoomService,
  type JoinRequestSchema,
  type JoinResponse,
  type JoinResponseSchema,
  type PostResponse,
  type WatchResponse,
} from "./gen/chat/v1/chat_pb.js";

// Equal reports whether two types are the same, any included.
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Equal<A, B>) {}

export async function calls(room: Stub<typeof RoomService>, options: CallOptions) {
  const posted = await room.post({ text: "hi" }, { ...options, idempotencyKey: true });
  same<typeof posted, PostResponse>(true);
  posted.number satisfies bigint;
  await room.post({}, { idempotencyKey: "my-key" });
  (await room.open({})).opened satisfies boolean;

  // @ts-expect-error a field that is not there
  await room.post({ txt: "hi" });
  // @ts-expect-error a field of another type
  await room.post({ text: 1 });
  // @ts-expect-error false is no key
  await room.post({}, { idempotencyKey: false });
  // @ts-expect-error a response field that is not there
  posted.text;
  // @ts-expect-error a method that is not there
  await room.pots({});

  const watching = room.watch({ from: 1n }, options);
  for await (const res of watching) {
    same<typeof res, WatchResponse>(true);
    // @ts-expect-error a field of another message
    res.number;
  }
  // @ts-expect-error streams have no idempotency key
  room.watch({}, { idempotencyKey: true });
  // @ts-expect-error browsers cannot stream requests
  room.upload;
  // @ts-expect-error browsers cannot stream requests: $open does
  room.join;
}

export async function connections(room: Stub<typeof RoomService>) {
  const conn = room.$open(RoomService.method.join, {
    resume: true,
    onOpen: ({ resumed, attempt }) => {
      resumed satisfies boolean;
      attempt satisfies number;
      conn.send({ text: "it may be used in its own options" });
    },
    onLost: ({ error, delay }) => console.log(error.code, delay),
  });
  const kept: Connection<typeof JoinRequestSchema, typeof JoinResponseSchema> = conn;
  kept.send({ text: "hi" });
  same<typeof conn, any>(false);
  conn.send({ text: "hi" });
  // @ts-expect-error a field that is not there
  conn.send({ txt: "hi" });
  // @ts-expect-error a field of another type
  conn.send({ text: 1n });
  for await (const res of conn) {
    same<typeof res, JoinResponse>(true);
    res.number satisfies bigint;
    // @ts-expect-error a response field that is not there
    res.txt;
  }
  conn.close();
  conn.close(1000, "bye");

  const watching = room.$open(RoomService.method.watch, { request: { from: 1n } });
  for await (const res of watching) {
    same<typeof res, WatchResponse>(true);
  }
  watching.close();
  // @ts-expect-error it has sent its only request
  watching.send({});
  // @ts-expect-error a server stream has a request
  room.$open(RoomService.method.watch);
  // @ts-expect-error a field that is not there
  room.$open(RoomService.method.watch, { request: { form: 1n } });
  // @ts-expect-error the requests of a bidirectional stream are sent
  room.$open(RoomService.method.join, { request: { text: "hi" } });
  // @ts-expect-error an option that is not there
  room.$open(RoomService.method.join, { retry: true });
  // @ts-expect-error not a stream
  room.$open(RoomService.method.post);
  // @ts-expect-error a stream of requests only
  room.$open(RoomService.method.upload);
  // @ts-expect-error a method of another service
  room.$open(DoorService.method.listen);
}

export function stubs() {
  const room = getByName(RoomService, "http://127.0.0.1:8080", "lobby");
  same<typeof room, Stub<typeof RoomService>>(true);
  same<typeof room, any>(false);
  getById(RoomService, "", "00", { webSocket: WS, useBinaryFormat: true, useHttpGet: true });
  getById(RoomService, "", "00", { webSocket: WebSocket } satisfies StubOptions);
  // @ts-expect-error not a service
  getByName({} as DescMessage, "", "lobby");
  // @ts-expect-error the base URL is an argument
  getByName(RoomService, "", "lobby", { baseUrl: "" });
  // @ts-expect-error not a WebSocket
  getByName(RoomService, "", "lobby", { webSocket: Date });
}
