import { ConnectError } from "@connectrpc/connect";

import { byId } from "./dom.js";
import { RefusedReason } from "./gen/chat/v1/chat_pb.js";
import { Messages } from "./messages.js";
import { People } from "./people.js";
import { Session } from "./session.js";
import "./style.css";

const maxText = 2000;
const typingAgain = 3_000; // ms
const awayFor = 60_000; // ms in which those who come back are not news

const entrance = byId("entrance", HTMLElement);
const joinForm = byId("join", HTMLFormElement);
const nameField = byId("name", HTMLInputElement);
const whereField = byId("where", HTMLInputElement);
const joinError = byId("join-error", HTMLParagraphElement);
const room = byId("room", HTMLDivElement);
const text = byId("text", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const left = byId("left", HTMLSpanElement);
const people = byId("show-people", HTMLButtonElement);
const shade = byId("shade", HTMLButtonElement);

/** The room that is on the screen. */
let open: { name: string; close(): void } | undefined;

/** Shows the entrance. */
function showEntrance(error = ""): void {
  open?.close();
  open = undefined;
  document.title = "Chat";
  room.hidden = true;
  entrance.hidden = false;
  nameField.value = localStorage.getItem("chat-name") ?? "";
  whereField.value = roomOfAddress() || "lobby";
  joinError.textContent = error;
  (nameField.value ? whereField : nameField).focus();
}

/** Shows a room. */
function showRoom(name: string, user: string): void {
  open?.close();
  open = undefined;
  let session: Session;
  let typingUntil = 0;
  let before: { users: readonly string[]; until: number } | undefined;
  let welcomed = false;

  const persons = new People(user);
  const messages = new Messages(
    user,
    (unread) => {
      document.title = unread > 0 ? `(${unread}) ${name}` : name;
    },
    async (beforeId) => {
      const page = await session.older(beforeId);
      messages.prepend(page.messages, page.more);
    },
  );

  try {
    session = new Session(name, user, {
      status(status, why) {
        showStatus(status, why);
        if (status === "offline") {
          persons.users.forEach((who) => persons.typing(who, false));
        }
      },
      welcome(welcome) {
        if (welcomed) {
          before = { users: persons.users, until: Date.now() + awayFor };
        }
        persons.set(welcome.users);
        if (welcome.fresh) {
          messages.reset(welcome.messages, welcome.more);
        } else {
          welcome.messages.forEach((message) => messages.append(message));
        }
        welcomed = true;
      },
      posted(message) {
        waiting.delete(message.clientId);
        persons.typing(message.author, false);
        messages.append(message);
      },
      joined(who) {
        persons.add(who);
        if (!before?.users.includes(who) || Date.now() > before.until) {
          messages.notice(who, "joined");
        }
      },
      left(who) {
        persons.remove(who);
        messages.notice(who, "left");
      },
      typing: (who, active) => persons.typing(who, active),
      refused(refused) {
        if (refused.reason === RefusedReason.BAD_USER) {
          sessionStorage.removeItem("chat-user");
          showEntrance(refused.text);
          return;
        }
        const line = waiting.get(refused.clientId);
        if (line !== undefined) {
          messages.failed(refused.clientId, refused.text, {
            retry: () => post(line, refused.clientId),
            discard: () => waiting.delete(refused.clientId),
          });
        }
      },
    });
  } catch (err) {
    messages.close();
    showEntrance(ConnectError.from(err).rawMessage);
    return;
  }

  const waiting = new Map<string, string>(); // client id → text
  function post(line: string, again?: string): void {
    const clientId = session.post(line, again);
    waiting.set(clientId, line);
    messages.wait(clientId, line);
  }

  const end = new AbortController();
  const signal = end.signal;
  const submit = (): void => {
    const line = text.value.trim();
    if (line === "" || [...line].length > maxText) {
      return;
    }
    post(line);
    text.value = "";
    typingUntil = 0;
    measure();
  };
  byId("composer", HTMLFormElement).addEventListener(
    "submit",
    (event) => {
      event.preventDefault();
      submit();
      text.focus();
    },
    { signal },
  );
  text.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
      }
    },
    { signal },
  );
  text.addEventListener(
    "input",
    () => {
      measure();
      if (text.value.trim() === "") {
        if (typingUntil > 0) {
          session.typing(false);
        }
        typingUntil = 0;
      } else if (Date.now() > typingUntil) {
        typingUntil = Date.now() + typingAgain;
        session.typing(true);
      }
    },
    { signal },
  );
  byId("retry", HTMLButtonElement).addEventListener("click", () => session.reconnect(), { signal });
  byId("leave", HTMLButtonElement).addEventListener(
    "click",
    () => {
      sessionStorage.removeItem("chat-user");
      showEntrance();
    },
    { signal },
  );
  window.addEventListener("online", () => session.check(), { signal });
  document.addEventListener(
    "visibilitychange",
    () => {
      if (!document.hidden) {
        session.check();
      }
    },
    { signal },
  );

  open = {
    name,
    close() {
      end.abort();
      session.leave();
      messages.close();
      persons.close();
      text.value = "";
      showPeople(false);
    },
  };
  byId("room-name", HTMLHeadingElement).textContent = name;
  byId("me", HTMLSpanElement).textContent = user;
  document.title = name;
  showStatus("connecting");
  entrance.hidden = true;
  room.hidden = false;
  measure();
  text.focus();
}

function showStatus(status: "connecting" | "online" | "offline", why?: string): void {
  const line = byId("status", HTMLParagraphElement);
  line.dataset.status = status;
  byId("status-text", HTMLSpanElement).textContent = { connecting: "Connecting…", online: "Connected", offline: "Reconnecting…" }[status];
  room.classList.toggle("lost", status !== "online");
  byId("offline", HTMLDivElement).hidden = status !== "offline";
  byId("offline-text", HTMLSpanElement).textContent = why
    ? `Disconnected: ${why}.`
    : "The connection was lost. What you write is sent when it is back.";
}

/** Fits the composer to what is in it. */
function measure(): void {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  const length = [...text.value.trim()].length;
  left.textContent = length > maxText - 200 ? String(maxText - length) : "";
  left.classList.toggle("over", length > maxText);
  send.disabled = length === 0 || length > maxText;
}

function showPeople(show: boolean): void {
  if (show === room.classList.contains("with-people")) {
    return;
  }
  room.classList.toggle("with-people", show);
  people.setAttribute("aria-expanded", String(show));
  shade.hidden = !show;
  (show ? byId("side", HTMLElement) : people).focus();
}

function roomOfAddress(): string {
  try {
    return decodeURIComponent(location.hash.slice(1)).trim();
  } catch {
    return "";
  }
}

/** Shows what the address says. */
function follow(): void {
  const name = roomOfAddress();
  const user = sessionStorage.getItem("chat-user");
  if (name === "" || user === null) {
    showEntrance();
  } else if (name !== open?.name) {
    showRoom(name, user);
  }
}

joinForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const user = nameField.value.trim().replace(/\s+/g, " ");
  const name = whereField.value.trim();
  if (user === "" || name === "") {
    joinError.textContent = "Both your name and a room are needed.";
    return;
  }
  localStorage.setItem("chat-name", user);
  sessionStorage.setItem("chat-user", user);
  if (roomOfAddress() === name) {
    follow();
  } else {
    location.hash = encodeURIComponent(name); // which is followed
  }
});
people.addEventListener("click", () => showPeople(!room.classList.contains("with-people")));
shade.addEventListener("click", () => showPeople(false));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    showPeople(false);
  }
});
const share = byId("share", HTMLButtonElement);
share.hidden = !navigator.clipboard; // only for pages over HTTPS, or of this machine
share.addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href);
  share.textContent = "Copied";
  setTimeout(() => (share.textContent = "Copy link"), 2_000);
});
window.addEventListener("hashchange", follow);
follow();
