import {
  create,
  fromBinary,
  fromJsonString,
  toBinary,
  toJsonString,
  type DescMessage,
  type DescMethod,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ConnectTransportOptions } from "@connectrpc/connect-web";

/**
 * The responses of an open connection, in order, each once. There is one
 * sequence, whoever iterates over it. It ends when the connection was closed
 * with code 1000 or by close, and throws a ConnectError when it ended otherwise:
 *
 * - 4001 to 4016: the Connect code 4000 below.
 * - 1001, 1005, 1006, 1012, 1013 (the server goes away or is overloaded, the
 *   network failed, this client read too slowly), where it does not reconnect:
 *   unavailable.
 * - 1009: resource_exhausted. All others, as those of the application: aborted.
 *
 * closeCode has the code itself. What arrived before is delivered first. Leaving
 * a loop over the responses closes the connection.
 *
 * Browsers cannot slow the server down: responses that nobody asks for wait in
 * memory.
 */
export interface Responses<O extends DescMessage> extends AsyncIterable<MessageShape<O>> {
  /**
   * Closes the connection, with code 1000 or one from 3000 to 4999 and a reason
   * of at most 123 bytes; WebSocket throws where they are not. Messages that
   * still wait to be sent, and those that the server sends from now on, are
   * dropped. It does nothing when the connection has ended. The server does not
   * learn of it while the connection is lost.
   */
  close(code?: number, reason?: string): void;
}

/** An open connection of a method whose requests stream too. */
export interface Connection<I extends DescMessage, O extends DescMessage> extends Responses<O> {
  /**
   * Sends a message, or keeps it until the connection is open or open again: see
   * maxQueued. It does not wait.
   *
   * Nothing acknowledges a message. One that was sent just before the connection
   * was lost may have been handled or not, and is not sent again, also where the
   * connection resumes: it arrives at most once. Make a unary call with an
   * idempotency key for what must count once.
   *
   * It throws a ConnectError: the error that the connection ended with,
   * failed_precondition when it was closed, resource_exhausted when the queue is
   * full, and whatever encoding throws for a message that is not valid.
   */
  send(message: MessageInitShape<I>): void;
}

/** How to open a connection. */
export interface OpenOptions {
  /** Ends the connection when it aborts; iterating then throws canceled. */
  signal?: AbortSignal;
  /**
   * The method has the option resume in its schema: when the connection is lost
   * it is opened again and goes on where it was, without a response lost or
   * doubled, as long as the server keeps them. Where it cannot, iterating throws
   * out_of_range (code 4011), and the page has to begin anew. The generated code
   * does not tell whether a method has the option. Default false.
   */
  resume?: boolean;
  /**
   * Opens a connection again after the codes 1001, 1005, 1006, 1012 and 1013,
   * until it is closed: after a random time of up to 250 ms, doubled each time
   * up to 30 s, from the start when the lost one was open for 5 s. Without resume
   * the server sees a new connection, and onOpen is the place to send what it has
   * to know. Default: what resume is.
   */
  reconnect?: boolean;
  /** How many messages may wait while it is not open. Default 1,000. */
  maxQueued?: number;
  /** Is called each time it opens, before what waits is sent. */
  onOpen?(info: {
    /** It goes on where it was, and was open before. */
    resumed: boolean;
    /** How many attempts it took since the first or since it was last open, from 1. */
    attempt: number;
  }): void;
  /** Is called when it was lost, or could not be opened, and will be tried again. */
  onLost?(info: {
    /** What iterating would throw if there were no further attempt. */
    error: ConnectError;
    /** The pause before the next attempt, in milliseconds. */
    delay: number;
  }): void;
}

/** What is used of the WebSocket class of browsers, Node 22 or the package ws. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => {
  binaryType: string;
  readonly readyState: number;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: any) => void): void;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
};

/** Where to open a connection, and how to encode its messages. */
export interface Endpoint extends Pick<ConnectTransportOptions, "useBinaryFormat" | "jsonOptions" | "binaryOptions"> {
  url: URL;
  webSocket: WebSocketConstructor;
}

/** Returns the code that a WebSocket was closed with, if err is of that. */
export function closeCode(err: unknown): number | undefined {
  return err instanceof ConnectError && err.cause instanceof CloseCause ? err.cause.code : undefined;
}

class CloseCause {
  constructor(
    readonly code: number,
    readonly reason: string,
  ) {}
}

const lost = new Set([1001, 1005, 1006, 1012, 1013]);

function closeError(code: number, reason: string): ConnectError {
  let connectCode = Code.Aborted;
  if (code > 4000 && code <= 4016) {
    connectCode = code - 4000;
  } else if (lost.has(code)) {
    connectCode = Code.Unavailable;
  } else if (code === 1009) {
    connectCode = Code.ResourceExhausted;
  }
  const text = reason || `the connection was closed with code ${code}`;
  return new ConnectError(text, connectCode, undefined, undefined, new CloseCause(code, reason));
}

/** Returns 128 random bits in 32 characters; randomUUID is only for pages over HTTPS. */
export function randomToken(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/**
 * Opens a connection. Each WebSocket that it takes begins with request, if there
 * is one.
 */
export function openConnection<I extends DescMessage, O extends DescMessage>(
  method: DescMethod & { input: I; output: O },
  endpoint: Endpoint,
  options: OpenOptions,
  request?: MessageInitShape<I>,
): Connection<I, O> {
  const { signal, resume = false, reconnect = resume, maxQueued = 1000 } = options;
  const { jsonOptions, binaryOptions, useBinaryFormat = false } = endpoint;
  const token = randomToken();
  const inbox: MessageShape<O>[] = [];
  const outbox: (string | Uint8Array<ArrayBuffer>)[] = [];
  const first = request && encode(request);
  let socket: InstanceType<WebSocketConstructor> | undefined;
  let received = 0;
  let attempt = 0; // since it was last open
  let losses = 0; // since one that lived
  let wasOpen = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let end: { error?: ConnectError } | undefined;
  let wake = () => {};

  function encode(message: MessageInitShape<I>) {
    const full = create(method.input, message);
    return useBinaryFormat ? toBinary(method.input, full, binaryOptions) : toJsonString(method.input, full, jsonOptions);
  }

  function decode(data: string | ArrayBuffer): MessageShape<O> {
    return typeof data === "string"
      ? fromJsonString(method.output, data, { ignoreUnknownFields: true, ...jsonOptions })
      : fromBinary(method.output, new Uint8Array(data), binaryOptions);
  }

  function dial() {
    const url = new URL(endpoint.url);
    if (resume) {
      url.searchParams.set("resume", `${token}:${received}`);
    }
    attempt++;
    let opened = Infinity;
    const s = new endpoint.webSocket(url.href, [useBinaryFormat ? "durable.v1.proto" : "durable.v1.json"]);
    socket = s;
    s.binaryType = "arraybuffer";
    s.addEventListener("error", () => {}); // a close event follows, which says more
    s.addEventListener("open", () => {
      if (socket !== s) {
        return;
      }
      const info = { resumed: resume && wasOpen, attempt };
      opened = Date.now();
      wasOpen = true;
      attempt = 0;
      if (first !== undefined) {
        s.send(first);
      }
      try {
        options.onOpen?.(info);
      } finally {
        while (socket === s && outbox.length > 0) {
          s.send(outbox.shift()!);
        }
      }
    });
    s.addEventListener("message", (event: { data: string | ArrayBuffer }) => {
      if (socket !== s) {
        return;
      }
      try {
        inbox.push(decode(event.data));
      } catch (err) {
        const text = `cannot read a message from the server: ${err instanceof Error ? err.message : err}`;
        finish(new ConnectError(text, Code.Internal, undefined, undefined, err), 4000 + Code.Internal, "cannot read a message");
        return;
      }
      received++;
      wake();
    });
    s.addEventListener("close", ({ code, reason }: { code: number; reason: string }) => {
      if (socket !== s) {
        return;
      }
      socket = undefined;
      const error = closeError(code, reason);
      if (code === 1000) {
        finish();
      } else if (!reconnect || !lost.has(code)) {
        finish(error);
      } else {
        if (Date.now() - opened >= 5000) {
          losses = 0;
        }
        const delay = Math.random() * Math.min(30_000, 250 * 2 ** losses++);
        timer = setTimeout(dial, delay);
        options.onLost?.({ error, delay });
      }
    });
  }

  function finish(error?: ConnectError, code?: number, reason?: string) {
    if (end) {
      return;
    }
    socket?.close(code, reason); // throws where code and reason are not valid
    socket = undefined;
    end = error ? { error } : {};
    outbox.length = 0;
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    wake();
  }

  function abort() {
    inbox.length = 0;
    finish(ConnectError.from(signal?.reason, Code.Canceled), 1000);
  }

  if (signal?.aborted) {
    abort();
  } else {
    dial();
    signal?.addEventListener("abort", abort);
  }

  const close = (code = 1000, reason?: string) => finish(undefined, code, reason);
  return {
    close,
    send(message) {
      if (end) {
        throw end.error ?? new ConnectError("the connection is closed", Code.FailedPrecondition);
      }
      const frame = encode(message);
      if (socket?.readyState === 1) {
        socket.send(frame);
      } else if (outbox.length < maxQueued) {
        outbox.push(frame);
      } else {
        throw new ConnectError(`${maxQueued} messages wait for the connection already`, Code.ResourceExhausted);
      }
    },
    async *[Symbol.asyncIterator]() {
      try {
        for (;;) {
          while (inbox.length > 0) {
            yield inbox.shift()!;
          }
          if (end?.error) {
            throw end.error;
          }
          if (end) {
            return;
          }
          await new Promise<void>((resolve) => {
            const others = wake;
            wake = () => {
              wake = () => {};
              resolve();
              others();
            };
          });
        }
      } finally {
        close();
      }
    },
  };
}
