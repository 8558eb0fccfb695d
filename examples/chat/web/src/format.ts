const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const dayOfYearFormat = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });

export const clock = (date: Date): string => timeFormat.format(date);
export const fullTime = (date: Date): string => fullFormat.format(date);

/** Returns the day, as people call it today. */
export function dayName(date: Date, now = new Date()): string {
  if (sameDay(date, now)) {
    return "Today";
  }
  if (sameDay(date, new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1))) {
    return "Yesterday";
  }
  return (date.getFullYear() === now.getFullYear() ? dayFormat : dayOfYearFormat).format(date);
}

export function sameDay(a: Date, b: Date): boolean {
  return a.getFullYear() === b.getFullYear() && a.getMonth() === b.getMonth() && a.getDate() === b.getDate();
}

/** Returns one or two letters for a name. */
export function initials(name: string): string {
  const words = name.split(" ");
  const last = words.length > 1 ? words.at(-1)! : "";
  return ([...words[0]!][0]! + ([...last][0] ?? "")).toUpperCase();
}

/** Returns the color of a name, the same everywhere: a hue in degrees. */
export function hue(name: string): number {
  let hash = 2166136261;
  for (const byte of new TextEncoder().encode(name)) {
    hash = Math.imul(hash ^ byte, 16777619);
  }
  return ((hash >>> 0) * 137) % 360;
}

/** Names people: "Ann", "Ann and Bob", "Ann, Bob and 2 others". */
export function list(names: string[]): string {
  if (names.length <= 2) {
    return names.join(" and ");
  }
  if (names.length === 3) {
    return `${names[0]}, ${names[1]} and ${names[2]}`;
  }
  return `${names[0]}, ${names[1]} and ${names.length - 2} others`;
}

const link = /https?:\/\/[^\s<>"]+/g;

/** Returns a text in which addresses are links. Nothing in it is taken for HTML. */
export function withLinks(text: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(link)) {
    const address = match[0].replace(/[.,;:!?'")\]]+$/, "");
    if (!URL.canParse(address)) {
      continue;
    }
    fragment.append(text.slice(end, match.index));
    const a = document.createElement("a");
    a.href = address;
    a.textContent = address;
    a.target = "_blank";
    a.rel = "noopener noreferrer";
    fragment.append(a);
    end = match.index + address.length;
  }
  fragment.append(text.slice(end));
  return fragment;
}
