import { timestampDate } from "@bufbuild/protobuf/wkt";

import { byId, element, face } from "./dom.js";
import { clock, dayName, fullTime, hue, sameDay, withLinks } from "./format.js";
import type { Message } from "./gen/chat/v1/chat_pb.js";

const together = 5 * 60_000; // ms between messages of one author that stand together

/** What can be done with a message that was not posted. */
export interface Failure {
  retry(): void;
  discard(): void;
}

/** The list of messages, the newest at the bottom. */
export class Messages {
  readonly #scroll = byId("scroll", HTMLDivElement);
  readonly #list = byId("messages", HTMLOListElement);
  readonly #waiting = byId("waiting", HTMLOListElement);
  readonly #older = byId("load-older", HTMLButtonElement);
  readonly #empty = byId("empty", HTMLParagraphElement);
  readonly #jump = byId("jump", HTMLButtonElement);
  readonly #user: string;
  readonly #seen: (unread: number) => void;
  readonly #end = new AbortController();
  readonly #notices = new Map<string, { line: HTMLElement; time: number }>(); // of who left
  #all: Message[] = [];
  #unread = 0;
  #marker: HTMLElement | undefined;

  /** Calls seen with the number of messages that nobody has looked at. */
  constructor(user: string, seen: (unread: number) => void, older: (beforeId: bigint) => Promise<void>) {
    this.#user = user;
    this.#seen = seen;
    const signal = this.#end.signal;
    this.#scroll.addEventListener("scroll", () => this.#look(), { signal, passive: true });
    document.addEventListener("visibilitychange", () => this.#look(), { signal });
    this.#jump.addEventListener("click", () => this.toBottom(), { signal });
    this.#older.addEventListener(
      "click",
      async () => {
        this.#older.disabled = true;
        try {
          await older(this.#all[0]?.id ?? 0n);
        } catch {
          // The button is still there.
        } finally {
          this.#older.disabled = false;
        }
      },
      { signal },
    );
    // What stood at the bottom stays there when the window or the composer change.
    const size = new ResizeObserver(() => {
      if (this.#atBottom) {
        this.toBottom();
      }
    });
    size.observe(this.#scroll);
    signal.addEventListener("abort", () => size.disconnect());
  }

  /** Empties the list, for another one. */
  close(): void {
    this.#end.abort();
    this.#list.replaceChildren();
    this.#waiting.replaceChildren();
    this.#jump.hidden = this.#older.hidden = this.#empty.hidden = true;
  }

  /** Shows these alone. */
  reset(messages: Message[], more: boolean): void {
    this.#all = messages;
    messages.forEach((message) => this.#answered(message));
    this.#unread = 0;
    this.#seen(0);
    this.#render(more);
    this.toBottom();
  }

  /** Adds a page of older ones on top, and keeps in place what is looked at. */
  prepend(messages: Message[], more: boolean): void {
    const fromBottom = this.#scroll.scrollHeight - this.#scroll.scrollTop;
    this.#all = [...messages, ...this.#all];
    this.#render(more);
    this.#scroll.scrollTop = this.#scroll.scrollHeight - fromBottom;
  }

  /** Adds a message at the bottom, once, in place of the one that waited for it. */
  append(message: Message): void {
    const looking = this.#atBottom && !document.hidden;
    const follow = this.#atBottom;
    const answered = this.#answered(message);
    const last = this.#all.at(-1);
    if (last && message.id <= last.id) {
      return;
    }
    if (message.author !== this.#user && !looking && this.#unread++ === 0) {
      this.#marker?.remove();
      this.#marker = element("li", "marker", element("span", "", "New messages"));
      this.#list.append(this.#marker);
    }
    this.#all.push(message);
    this.#list.append(...this.#lines(message, last, this.#list.lastElementChild));
    this.#empty.hidden = true;
    if (follow || answered) {
      this.toBottom();
    } else {
      this.#look();
    }
    this.#seen(this.#unread);
  }

  /** Shows a message of one's own that was not answered yet. */
  wait(clientId: string, text: string): void {
    const line = element("li", "message own pending");
    line.dataset.clientId = clientId;
    const body = element("div", "bubble", element("p", "text", withLinks(text)), element("span", "state", "Sending…"));
    line.append(body);
    this.#find(clientId)?.remove();
    this.#waiting.append(line);
    this.#empty.hidden = true;
    this.#marker?.remove();
    this.toBottom();
  }

  /** Says of such a message why it was not posted. Returns whether it is there. */
  failed(clientId: string, why: string, failure: Failure): boolean {
    const line = this.#find(clientId);
    if (!line) {
      return false;
    }
    line.classList.replace("pending", "failed");
    const retry = element("button", "plain", "Send again");
    const discard = element("button", "plain", "Discard");
    retry.type = discard.type = "button";
    retry.addEventListener("click", () => failure.retry());
    discard.addEventListener("click", () => {
      line.remove();
      failure.discard();
    });
    const state = element("span", "state", `Not sent. ${why} `, retry, " ", discard);
    state.setAttribute("role", "alert");
    line.querySelector(".state")!.replaceWith(state);
    this.#follow();
    return true;
  }

  /** Notes that somebody came or went. Who is back within a minute was not away. */
  notice(user: string, kind: "joined" | "left"): void {
    const before = this.#notices.get(user);
    this.#notices.delete(user);
    if (before && kind === "joined" && Date.now() - before.time < 60_000) {
      before.line.remove();
      return;
    }
    const follow = this.#atBottom;
    const line = element("li", "notice", element("b", "", user), kind === "joined" ? " came in" : " left");
    if (kind === "left") {
      this.#notices.set(user, { line, time: Date.now() });
    }
    this.#list.append(line);
    if (follow) {
      this.toBottom();
    }
  }

  toBottom(): void {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#look();
  }

  get #atBottom(): boolean {
    return this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 80;
  }

  #follow(): void {
    if (this.#atBottom) {
      this.toBottom();
    }
  }

  #find(clientId: string): HTMLElement | undefined {
    return [...this.#waiting.children].find((line): line is HTMLElement => (line as HTMLElement).dataset.clientId === clientId);
  }

  /** Removes the line that waited for a message. Returns whether there was one. */
  #answered(message: Message): boolean {
    const line = message.author === this.#user ? this.#find(message.clientId) : undefined;
    line?.remove();
    return line !== undefined;
  }

  /** Counts what is in sight as read. */
  #look(): void {
    if (this.#unread > 0 && this.#atBottom && !document.hidden) {
      this.#unread = 0;
      this.#seen(0);
    }
    this.#jump.hidden = this.#atBottom;
    this.#jump.textContent = this.#unread > 0 ? `${this.#unread} new ${this.#unread === 1 ? "message" : "messages"} ↓` : "Newest ↓";
    this.#jump.classList.toggle("unread", this.#unread > 0);
  }

  #render(more: boolean): void {
    this.#scroll.setAttribute("aria-busy", "true"); // not to be read out from the start
    const lines: HTMLElement[] = [];
    let last: Message | undefined;
    for (const message of this.#all) {
      lines.push(...this.#lines(message, last, lines.at(-1) ?? null));
      last = message;
    }
    this.#notices.clear();
    this.#marker = undefined;
    this.#list.replaceChildren(...lines);
    this.#older.hidden = !more;
    this.#empty.hidden = this.#all.length > 0 || this.#waiting.childElementCount > 0;
    this.#scroll.removeAttribute("aria-busy");
  }

  #lines(message: Message, last: Message | undefined, above: Element | null): HTMLElement[] {
    const time = timeOf(message);
    const lines: HTMLElement[] = [];
    const newDay = !last || !sameDay(timeOf(last), time);
    if (newDay) {
      lines.push(element("li", "day", element("span", "", dayName(time))));
    }
    const own = message.author === this.#user;
    const line = element("li", own ? "message own" : "message");
    const goesOn =
      !newDay && above?.classList.contains("message") && last?.author === message.author && time.getTime() - timeOf(last).getTime() < together;
    if (goesOn) {
      line.classList.add("goes-on");
    }
    const bubble = element("div", "bubble");
    if (!own) {
      line.append(goesOn ? element("span", "face-space") : face(message.author));
    }
    const author = element("span", own || goesOn ? "author sr" : "author", message.author);
    author.style.setProperty("--hue", String(hue(message.author)));
    const at = element("time", "", clock(time));
    at.dateTime = time.toISOString();
    at.title = fullTime(time);
    bubble.append(author, element("p", "text", withLinks(message.text)), at);
    line.append(bubble);
    lines.push(line);
    return lines;
  }
}

function timeOf(message: Message): Date {
  return message.time ? timestampDate(message.time) : new Date();
}
