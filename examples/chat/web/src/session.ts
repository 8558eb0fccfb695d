import type { MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { getByName, type Connection } from "@durable-go/client";

import {
  RoomService,
  type HistoryResponse,
  type JoinRequestSchema,
  type JoinResponse,
  type JoinResponseSchema,
  type JoinResponse_Refused,
  type JoinResponse_Welcome,
  type Message,
} from "./gen/chat/v1/chat_pb.js";

type RequestEvent = NonNullable<MessageInitShape<typeof JoinRequestSchema>["event"]>;

const pingEvery = 25_000; // ms
const pongWithin = 8_000;

/** What a session tells, each in the order in which it happened. */
export interface Listener {
  /** The room can be reached, or not for now. */
  status(status: "online" | "offline", why?: string): void;
  welcome(welcome: JoinResponse_Welcome): void;
  posted(message: Message): void;
  joined(user: string): void;
  left(user: string): void;
  typing(user: string, active: boolean): void;
  refused(refused: JoinResponse_Refused): void;
}

/**
 * Somebody in a room, until leave. Whenever the connection is lost it is opened
 * again, and the room says what was missed; messages that were not answered are
 * sent again, which the room knows by their ids.
 */
export class Session {
  readonly #room;
  readonly #user: string;
  readonly #on: Listener;
  readonly #unanswered = new Map<string, string>(); // client id → text
  #conn: Connection<typeof JoinRequestSchema, typeof JoinResponseSchema> | undefined;
  #online = false;
  #last = 0n;
  #over = false;
  #wake = () => {};
  #pings: ReturnType<typeof setInterval>;
  #pong: ReturnType<typeof setTimeout> | undefined;

  /** Throws a ConnectError when there can be no room of that name. */
  constructor(room: string, user: string, on: Listener) {
    this.#room = getByName(RoomService, location.origin, room);
    this.#user = user;
    this.#on = on;
    this.#pings = setInterval(() => this.#ping(), pingEvery);
    void this.#run();
  }

  /** Posts a message, now or as soon as the room can be reached. Returns its id. */
  post(text: string, clientId: string = crypto.getRandomValues(new Uint32Array(4)).join("-")): string {
    this.#unanswered.set(clientId, text);
    this.#send({ case: "post", value: { text, clientId } });
    return clientId;
  }

  /** Gives up a message that was not posted. */
  forget(clientId: string): void {
    this.#unanswered.delete(clientId);
  }

  /** Tells the others. It is worth nothing later. */
  typing(active: boolean): void {
    this.#send({ case: "typing", value: { active } });
  }

  /** Returns the messages before one. */
  older(beforeId: bigint): Promise<HistoryResponse> {
    return this.#room.history({ beforeId });
  }

  /** Makes sure that the server is there, as after the computer slept. */
  check(): void {
    if (this.#online) {
      this.#ping();
    } else {
      this.reconnect();
    }
  }

  /** Gives up the connection, or a pause between two attempts, for a new one. */
  reconnect(): void {
    this.#lost();
    this.#conn?.close();
    this.#wake();
  }

  /** Ends the session. Nothing is told any more. */
  leave(): void {
    this.#over = true;
    clearInterval(this.#pings);
    clearTimeout(this.#pong);
    this.#conn?.close();
    this.#wake();
  }

  #ping(): void {
    if (this.#online) {
      this.#send({ case: "ping", value: {} });
      this.#pong ??= setTimeout(() => this.reconnect(), pongWithin);
    }
  }

  #send(event: RequestEvent): void {
    if (this.#online) {
      this.#conn?.send({ event });
    }
  }

  async #run(): Promise<void> {
    while (!this.#over) {
      let pause = 0;
      const conn = this.#room.$open(RoomService.method.join, {
        reconnect: true,
        onOpen: () => conn.send({ event: { case: "hello", value: { user: this.#user, lastId: this.#last } } }),
        onLost: () => this.#lost(),
      });
      this.#conn = conn;
      try {
        for await (const res of conn) {
          if (!this.#over) {
            this.#handle(res.event);
          }
        }
      } catch (err) {
        this.#lost(ConnectError.from(err).rawMessage);
        pause = 5_000; // the server does not want it
      }
      if (!this.#over) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
          setTimeout(resolve, pause);
        });
      }
    }
  }

  #lost(why?: string): void {
    this.#online = false;
    clearTimeout(this.#pong);
    this.#pong = undefined;
    if (!this.#over) {
      this.#on.status("offline", why);
    }
  }

  #handle(event: JoinResponse["event"]): void {
    switch (event.case) {
      case "welcome":
        this.#online = true;
        if (event.value.fresh) {
          this.#last = 0n;
        }
        for (const message of event.value.messages) {
          this.#answered(message);
        }
        this.#on.welcome(event.value);
        this.#on.status("online");
        for (const [clientId, text] of this.#unanswered) {
          this.#send({ case: "post", value: { text, clientId } });
        }
        break;
      case "posted":
        this.#answered(event.value);
        this.#on.posted(event.value);
        break;
      case "joined":
      case "left":
        this.#on[event.case](event.value.user);
        break;
      case "typing":
        this.#on.typing(event.value.user, event.value.active);
        break;
      case "refused":
        this.#unanswered.delete(event.value.clientId);
        this.#on.refused(event.value);
        break;
      case "pong":
        clearTimeout(this.#pong);
        this.#pong = undefined;
        break;
    }
  }

  #answered(message: Message): void {
    if (message.id > this.#last) {
      this.#last = message.id;
    }
    if (message.author === this.#user) {
      this.#unanswered.delete(message.clientId);
    }
  }
}
