/**
 * Calls durable objects from browsers and Node, with the types of plain
 * protoc-gen-es output: unary calls and server streams by connect-web,
 * connections over WebSocket.
 */
import type {
  DescMessage,
  DescMethodBiDiStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type CallOptions, type Client } from "@connectrpc/connect";
import { createConnectTransport, type ConnectTransportOptions } from "@connectrpc/connect-web";

import {
  openConnection,
  randomToken,
  type Connection,
  type OpenOptions,
  type Responses,
  type WebSocketConstructor,
} from "./connection.js";
import { idempotencyKeyHeader, retry } from "./retry.js";

export { closeCode, type Connection, type OpenOptions, type Responses, type WebSocketConstructor } from "./connection.js";

/**
 * How to reach an object. The options of connect-web's transport are for calls;
 * useBinaryFormat (default false: JSON), jsonOptions and binaryOptions are for
 * connections too. Interceptors run once for each attempt of a call.
 */
export interface StubOptions extends Omit<ConnectTransportOptions, "baseUrl"> {
  /** The WebSocket class, where there is no global one, as in Node 20. */
  webSocket?: WebSocketConstructor;
}

/** The options of one unary call. */
export interface UnaryOptions extends CallOptions {
  /**
   * Makes the call take effect once, however often it arrives: true for a random
   * key, or one of 1 to 255 visible ASCII characters, which the object remembers
   * for a day. A call with a key is repeated when the network or the server is
   * not there: at most 5 attempts in 10 s. Without one, only calls of methods
   * that are NO_SIDE_EFFECTS are.
   */
  idempotencyKey?: true | string;
}

/**
 * One object: the unary and server-streaming methods of its service, as those of
 * a Connect client, and $open. No method of a service can have a name that begins
 * with a dollar sign.
 */
export type Stub<S extends DescService> = {
  [P in keyof S["method"] as S["method"][P] extends DescMethodUnary | DescMethodServerStreaming
    ? P
    : never]: S["method"][P] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: UnaryOptions) => Promise<MessageShape<O>>
    : Client<S>[P];
} & {
  /**
   * Opens a connection of a streaming method of the service over WebSocket. It
   * returns at once; send what the object has to know, and iterate over the
   * result. The request of a server-streaming method is an option, and is sent
   * each time the WebSocket is opened.
   */
  $open<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O> & S["method"][keyof S["method"]],
    options?: OpenOptions,
  ): Connection<I, O>;
  $open<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O> & S["method"][keyof S["method"]],
    options: OpenOptions & { request: MessageInitShape<I> },
  ): Responses<O>;
};

/**
 * Returns the object of that name, which has 1 to 1,024 bytes of UTF-8. Nothing
 * is sent. It throws a ConnectError, invalid_argument, for the names "", "." and
 * "..", which cannot be in a URL.
 */
export function getByName<S extends DescService>(service: S, baseUrl: string, name: string, options?: StubOptions): Stub<S> {
  return stub(service, baseUrl, "name", name, options);
}

/** Returns the object of that id, which has 64 hexadecimal digits. Nothing is sent. */
export function getById<S extends DescService>(service: S, baseUrl: string, id: string, options?: StubOptions): Stub<S> {
  return stub(service, baseUrl, "id", id, options);
}

function stub<S extends DescService>(
  service: S,
  baseUrl: string,
  kind: "name" | "id",
  key: string,
  { webSocket, ...options }: StubOptions = {},
): Stub<S> {
  if (["", ".", ".."].includes(key)) {
    throw new ConnectError(`the URL of an object cannot have the ${kind} "${key}"`, Code.InvalidArgument);
  }
  const prefix = `${baseUrl.replace(/\/+$/, "")}/-/${kind}/${encodeURIComponent(key)}`;
  const interceptors = [retry, ...(options.interceptors ?? [])];
  const client = createClient(service, createConnectTransport({ ...options, baseUrl: prefix, interceptors }));
  const calls = client as Record<string, (request: unknown, options?: CallOptions) => unknown>;

  const methods: Record<string, unknown> = {};
  for (const { localName, methodKind } of service.methods) {
    const call = calls[localName]!;
    if (methodKind === "unary") {
      methods[localName] = async (request: unknown, options?: UnaryOptions) => call(request, withKey(options));
    } else if (methodKind === "server_streaming") {
      methods[localName] = call;
    }
  }
  methods.$open = (
    method: DescMethodBiDiStreaming | DescMethodServerStreaming,
    { request, ...open }: OpenOptions & { request?: MessageInitShape<DescMessage> } = {},
  ) => {
    if (method.parent.typeName !== service.typeName) {
      throw new ConnectError(`${method.parent.typeName} is not ${service.typeName}`, Code.InvalidArgument);
    }
    const url = new URL(`${prefix}/${service.typeName}/${method.name}`, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = webSocket ?? globalThis.WebSocket;
    if (!socket) {
      throw new ConnectError("there is no WebSocket here: give the option webSocket", Code.Unimplemented);
    }
    return openConnection(method, { ...options, url, webSocket: socket }, open, request);
  };
  return methods as Stub<S>;
}

function withKey({ idempotencyKey, ...options }: UnaryOptions = {}): CallOptions {
  if (idempotencyKey === undefined) {
    return options;
  }
  const key = idempotencyKey === true ? randomToken() : idempotencyKey;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw new ConnectError("an idempotency key has 1 to 255 visible ASCII characters", Code.InvalidArgument);
  }
  const headers = new Headers(options.headers);
  headers.set(idempotencyKeyHeader, key);
  return { ...options, headers };
}
