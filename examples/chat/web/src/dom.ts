import { hue, initials } from "./format.js";

/** Returns the element of the page with that id. */
export function byId<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) {
    throw new Error(`the page has no ${type.name} with the id ${id}`);
  }
  return found;
}

/** Returns a new element. What it is given to hold is text, never HTML. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

/** Returns the picture of somebody. */
export function face(user: string): HTMLElement {
  const made = element("span", "face", initials(user));
  made.style.setProperty("--hue", String(hue(user)));
  made.setAttribute("aria-hidden", "true");
  return made;
}
