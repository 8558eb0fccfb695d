import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";

/** The request header that holds the idempotency key of a call. */
export const idempotencyKeyHeader = "Idempotency-Key";

/**
 * An interceptor that makes a unary call again where that is safe and may help:
 * the call has an idempotency key or its method is NO_SIDE_EFFECTS; and the
 * network failed, or the answer is that the call can be repeated, or it is
 * unavailable from somebody on the way to the object. Errors of the handler and
 * overload are not repeated. At most 5 attempts, the last of which begins within
 * 10 s of the first; the pauses double from 100 ms, and half of each is random.
 * The error is that of the last attempt.
 */
export const retry: Interceptor = (next) => async (req) => {
  const readOnly = req.method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
  if (req.stream || !(readOnly || req.header.has(idempotencyKeyHeader))) {
    return next(req);
  }
  const last = Date.now() + 10_000;
  for (let attempt = 1; ; attempt++) {
    try {
      return await next({ ...req, header: new Headers(req.header) });
    } catch (err) {
      const delay = 100 * 2 ** (attempt - 1) * (1 - Math.random() / 2);
      if (attempt === 5 || req.signal.aborted || Date.now() + delay > last || !mayRepeat(err)) {
        throw err;
      }
      await pause(delay, req.signal);
    }
  }
};

function mayRepeat(err: unknown): boolean {
  if (!(err instanceof ConnectError)) {
    return err instanceof TypeError; // what fetch rejects with where the network failed
  }
  for (const detail of err.details) {
    if ("type" in detail && detail.type === "durable.v1.ErrorInfo") {
      return saysRepeat(detail.value);
    }
  }
  return err.code === Code.Unavailable;
}

/** Reads two fields of a durable.v1.ErrorInfo. */
function saysRepeat(info: Uint8Array): boolean {
  let retryable = false;
  let overloaded = false;
  const reader = new BinaryReader(info);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 5) {
      retryable = reader.bool();
    } else if (field === 6) {
      overloaded = reader.bool();
    } else {
      reader.skip(type, field);
    }
  }
  return retryable && !overloaded;
}

/** Resolves after the delay, in milliseconds; rejects as soon as signal aborts. */
function pause(delay: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, delay);
    signal.addEventListener("abort", abort, { once: true });
  });
}
