import { byId, element, face } from "./dom.js";
import { list } from "./format.js";

const typingLasts = 6_000; // ms

/** Who is in the room, and who of them is typing. */
export class People {
  readonly #list = byId("people", HTMLUListElement);
  readonly #faces = byId("faces", HTMLDivElement);
  readonly #count = byId("count", HTMLSpanElement);
  readonly #toggle = byId("show-people", HTMLButtonElement);
  readonly #line = byId("typing", HTMLParagraphElement);
  readonly #user: string;
  readonly #typing = new Map<string, ReturnType<typeof setTimeout>>();
  #users: string[] = [];

  constructor(user: string) {
    this.#user = user;
  }

  get users(): readonly string[] {
    return this.#users;
  }

  set(users: string[]): void {
    this.#users = users;
    for (const user of this.#typing.keys()) {
      if (!users.includes(user)) {
        this.typing(user, false);
      }
    }
    this.#render();
  }

  add(user: string): void {
    if (!this.#users.includes(user)) {
      this.set([...this.#users, user]);
    }
  }

  remove(user: string): void {
    this.set(this.#users.filter((other) => other !== user));
  }

  typing(user: string, active: boolean): void {
    clearTimeout(this.#typing.get(user));
    this.#typing.delete(user);
    if (active && user !== this.#user) {
      this.#typing.set(
        user,
        setTimeout(() => this.typing(user, false), typingLasts),
      );
    }
    const names = [...this.#typing.keys()];
    if (names.length === 0) {
      this.#line.replaceChildren();
      return;
    }
    const dots = element("span", "dots", element("i", ""), element("i", ""), element("i", ""));
    dots.setAttribute("aria-hidden", "true");
    this.#line.replaceChildren(dots, `${list(names)} ${names.length === 1 ? "is" : "are"} typing…`);
  }

  close(): void {
    this.set([]);
  }

  #render(): void {
    const users = [...this.#users].sort((a, b) => Number(b === this.#user) - Number(a === this.#user) || a.localeCompare(b));
    this.#list.replaceChildren(
      ...users.map((user) => {
        const line = element("li", "", face(user), element("span", "name", user));
        if (user === this.#user) {
          line.append(element("span", "you", "you"));
        }
        return line;
      }),
    );
    const count = String(users.length);
    this.#count.textContent = count;
    this.#toggle.textContent = users.length === 1 ? "1 person" : `${count} people`;
    const shown = users.filter((user) => user !== this.#user);
    this.#faces.replaceChildren(...shown.slice(0, 4).map(face));
    if (shown.length > 4) {
      this.#faces.append(element("span", "face rest", `+${shown.length - 4}`));
    }
  }
}
