// Two people, and a third on a phone, use the chat in Chromium.
import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";

import { Server } from "./server.js";

const { CHROMIUM, OUT, TEMP_FOLDER } = process.env;
const patience = 15_000; // ms

const server = new Server(TEMP_FOLDER);
await server.start();
const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const complaints = []; // of the pages
const pages = [];

/** Somebody at a browser of their own. */
class Person {
  static async arrive(name, options) {
    const person = new Person();
    person.name = name;
    person.context = await browser.newContext({ viewport: { width: 1120, height: 680 }, locale: "en-GB", ...options });
    person.context.setDefaultTimeout(patience);
    person.page = await person.newPage();
    return person;
  }

  async newPage() {
    const page = await this.context.newPage();
    pages.push([this.name, page]);
    page.on("pageerror", (err) => complaints.push(`${this.name}: ${err.stack}`));
    page.on("console", (message) => {
      // That the server is gone is what the browser itself complains about.
      if (message.type() === "error" && !/ERR_CONNECTION_REFUSED|WebSocket connection/.test(message.text())) {
        complaints.push(`${this.name}: ${message.text()}`);
      }
    });
    return page;
  }

  /** Goes through the entrance. */
  async join(room, page = this.page) {
    await page.goto(`${server.url}/#${room}`);
    await page.getByLabel("Your name").fill(this.name);
    await page.getByRole("button", { name: "Join" }).click();
    await this.online(page);
  }

  async online(page = this.page) {
    await page.locator("#status", { hasText: "Connected" }).waitFor();
  }

  async offline() {
    await this.page.locator("#status", { hasText: "Reconnecting" }).waitFor();
    await this.page.getByText("The connection was lost.").waitFor();
  }

  /** Writes as people do, and presses Enter. */
  async say(text) {
    await this.page.getByLabel("Message", { exact: true }).pressSequentially(text);
    await this.page.keyboard.press("Enter");
    await this.sees(text);
  }

  line(text) {
    return this.page.locator("#messages .message").filter({ has: this.page.getByText(text, { exact: true }) });
  }

  /** Waits for a message, and counts it. */
  async sees(text) {
    await this.line(text).first().waitFor();
    assert.equal(await this.line(text).count(), 1, `${this.name} sees ${text} more than once`);
  }

  async texts() {
    return this.page.locator("#messages .message .text").allTextContents();
  }

  async people(...names) {
    const list = this.page.locator("#people .name");
    await eventually(async () => assert.deepEqual(await list.allTextContents(), names, `the people that ${this.name} sees`));
  }

  shot(name) {
    return this.page.screenshot({ path: join(OUT, `${name}.png`) });
  }
}

async function eventually(check) {
  const end = Date.now() + patience;
  for (;;) {
    try {
      return await check();
    } catch (err) {
      if (Date.now() > end) {
        throw err;
      }
      await pause(50);
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const steps = [];
const step = (name, run) => steps.push([name, run]);
let ann, bob, cleo;

step("two people meet", async () => {
  ann = await Person.arrive("Ann Lee", { colorScheme: "light" });
  bob = await Person.arrive("Bob", { colorScheme: "dark" });
  await ann.page.goto(server.url);
  await ann.shot("1-entrance");
  await ann.join("harbour");
  await ann.page.getByText("Nothing was said here yet.").waitFor();
  await bob.join("harbour");
  await ann.people("Ann Lee", "Bob");
  await bob.people("Bob", "Ann Lee");
  await ann.page.locator(".notice", { hasText: "Bob came in" }).waitFor();
});

step("they talk, and see each other typing", async () => {
  await ann.say("Good morning! Is the boat back in the water?");
  await bob.sees("Good morning! Is the boat back in the water?");
  await bob.page.getByLabel("Message", { exact: true }).pressSequentially("Since yesterday");
  await ann.page.getByText("Bob is typing…").waitFor();
  await bob.page.getByLabel("Message", { exact: true }).fill("");
  await ann.page.getByText("Bob is typing…").waitFor({ state: "detached" });
  await bob.say("Since yesterday evening 🎉");
  await bob.say("The new mast is on too, and she looks like a different boat.");
  await ann.sees("The new mast is on too, and she looks like a different boat.");
  await ann.page.getByText("Bob is typing…").waitFor({ state: "detached" });
  const own = await ann.line("Good morning! Is the boat back in the water?").boundingBox();
  const other = await ann.line("Since yesterday evening 🎉").boundingBox();
  assert.ok(own.x + own.width > other.x + other.width + 100, "own messages are not on the right");
  assert.equal(await ann.page.locator(".day").count(), 1);
});

step("what is written is text, and addresses are links", async () => {
  const evil = `<img src=x onerror="window.hacked=1"><b>bold</b>`;
  const eve = await Person.arrive("<i>Eve</i>");
  await eve.join("tests");
  await eve.say(evil);
  await eve.say("see https://example.com/a?b=c. And javascript:alert(1)");
  const links = eve.page.locator("#messages a");
  assert.deepEqual(await links.evaluateAll((all) => all.map((a) => [a.href, a.rel])), [
    ["https://example.com/a?b=c", "noopener noreferrer"],
  ]);
  assert.equal(await eve.page.locator("#messages img, #messages b, #messages i, #people i").count(), 0, "text was taken for HTML");
  assert.equal(await eve.page.evaluate(() => window.hacked), undefined);
  await eve.context.close();
});

step("a message that is too long cannot be sent", async () => {
  const box = bob.page.getByLabel("Message", { exact: true });
  await box.fill("x".repeat(2001));
  assert.equal(await bob.page.getByRole("button", { name: "Send" }).isDisabled(), true);
  assert.equal(await bob.page.locator("#left").textContent(), "-1");
  await box.fill("x".repeat(1990));
  assert.equal(await bob.page.getByRole("button", { name: "Send" }).isDisabled(), false);
  await box.fill("");
});

step("a reload keeps the history and one's place", async () => {
  const before = await bob.texts();
  assert.equal(before.length, 3);
  await bob.page.reload();
  await bob.online();
  assert.deepEqual(await bob.texts(), before);
  await bob.people("Bob", "Ann Lee");
  assert.equal(await ann.page.locator(".notice").count(), 1, "a reload is not worth a line");
});

step("two tabs are one person", async () => {
  const tab = await bob.newPage();
  await bob.join("harbour", tab);
  await tab.locator("#messages .message").nth(2).waitFor();
  await ann.people("Ann Lee", "Bob");
  await tab.close();
  await pause(300);
  await ann.people("Ann Lee", "Bob");
});

step("a third one on a phone", async () => {
  cleo = await Person.arrive("Cleo", { viewport: { width: 390, height: 760 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme: "dark" });
  await cleo.join("harbour");
  await ann.people("Ann Lee", "Bob", "Cleo");
  await cleo.say("Room for a third one on Saturday? I can bring lunch for everybody.");
  await ann.sees("Room for a third one on Saturday? I can bring lunch for everybody.");
  await ann.say("Of course!");
  await ann.say("We leave at nine, with the tide: https://example.com/tides");
  await cleo.sees("Of course!");
  await bob.page.getByLabel("Message", { exact: true }).pressSequentially("Nine i");
  await cleo.page.getByText("Bob is typing…").waitFor();
  await ann.page.getByText("Bob is typing…").waitFor();
  await Promise.all([ann.shot("2-light"), cleo.shot("3-phone")]);
  await bob.page.getByLabel("Message", { exact: true }).pressSequentially("s early, but I will be there.");
  await bob.page.keyboard.press("Enter");
  await cleo.sees("Nine is early, but I will be there.");
  await bob.shot("4-dark");
  await cleo.page.getByRole("button", { name: "3 people" }).click();
  await cleo.page.locator("#people .name", { hasText: "Ann Lee" }).waitFor();
  await cleo.shot("5-phone-people");
  await cleo.page.getByRole("button", { name: "Leave" }).click();
  await cleo.page.getByRole("heading", { name: "Join a room" }).waitFor();
  await ann.page.locator(".notice", { hasText: "Cleo left" }).waitFor();
  await ann.people("Ann Lee", "Bob");
});

step("new messages while one reads further up", async () => {
  // From outside, as a program would.
  for (let i = 1; i <= 70; i++) {
    const res = await fetch(`${server.url}/chat.v1.RoomService/Post`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ room: "harbour", author: `bot ${i % 10}`, text: `Reading ${i}` }),
    });
    assert.equal(res.status, 200, await res.text());
  }
  await ann.sees("Reading 70");
  await ann.page.locator("#scroll").evaluate((list) => (list.scrollTop = 0));
  await bob.say("Who measures all that?");
  await ann.page.getByRole("button", { name: "1 new message ↓" }).waitFor();
  assert.equal(await ann.page.title(), "(1) harbour");
  await ann.shot("6-unread");
  await ann.page.getByRole("button", { name: "1 new message ↓" }).click();
  await ann.page.getByRole("button", { name: "1 new message ↓" }).waitFor({ state: "hidden" });
  assert.equal(await ann.page.title(), "harbour");
  const [marker] = await ann.page.locator(".marker + .message .text").allTextContents();
  assert.equal(marker, "Who measures all that?");
});

step("earlier messages come when asked for", async () => {
  await bob.page.reload();
  await bob.sees("Who measures all that?");
  assert.equal((await bob.texts()).length, 50);
  await bob.page.getByRole("button", { name: "Earlier messages" }).click();
  await bob.sees("Good morning! Is the boat back in the water?");
  await bob.page.getByRole("button", { name: "Earlier messages" }).waitFor({ state: "hidden" });
  assert.deepEqual(await bob.texts(), await ann.texts());
});

step("who writes too fast is told so", async () => {
  const box = bob.page.getByLabel("Message", { exact: true });
  const failed = bob.page.locator("#waiting .failed");
  for (let i = 1; i <= 100 && (await failed.count()) < 2; i++) {
    await box.fill(`Quick ${i}`);
    await box.press("Enter");
  }
  await bob.page.locator("#waiting .pending").waitFor({ state: "detached" });
  await failed.first().getByText("That was too fast").waitFor();
  const refused = await failed.count();
  assert.equal(await bob.line("Quick 10").count(), 1, "ten messages may come at once");
  await bob.shot("7-too-fast");
  await pause(1_500);
  const text = await failed.first().locator(".text").textContent();
  await failed.first().getByRole("button", { name: "Send again" }).click();
  await ann.sees(text);
  await bob.sees(text);
  for (let rest = refused - 1; rest > 0; rest--) {
    await failed.first().getByRole("button", { name: "Discard" }).click();
  }
  assert.equal(await bob.page.locator("#waiting li").count(), 0);
});

step("the room sleeps, and wakes for the next message", async () => {
  await eventually(() => assert.match(server.log, /room leaves memory.*room=harbour/));
  const before = server.log.length;
  await ann.say("Everybody asleep?");
  await bob.sees("Everybody asleep?");
  await eventually(() => assert.match(server.log.slice(before), /room comes into memory.*room=harbour connections=2/));
});

step("the server is killed and comes back", async () => {
  await bob.page.getByLabel("Message", { exact: true }).fill("a draft");
  await server.stop("SIGKILL");
  await Promise.all([ann.offline(), bob.offline()]);
  const box = ann.page.getByLabel("Message", { exact: true });
  await box.fill("Written while nobody was there");
  await box.press("Enter");
  await ann.page.locator("#waiting .pending", { hasText: "Sending…" }).waitFor();
  await ann.shot("8-offline");
  await pause(1_000);
  await server.start();
  await Promise.all([ann.online(), bob.online()]);
  await bob.sees("Written while nobody was there");
  await ann.sees("Written while nobody was there");
  assert.equal(await ann.page.locator("#waiting li").count(), 0);
  await ann.people("Ann Lee", "Bob");
  await bob.people("Bob", "Ann Lee");
  await bob.page.getByLabel("Message", { exact: true }).press("End");
  await bob.page.keyboard.type(", and the rest");
  await bob.page.keyboard.press("Enter");
  await ann.sees("a draft, and the rest");
  await bob.sees("a draft, and the rest");
  assert.deepEqual(await ann.texts(), await bob.texts());
  assert.deepEqual(await ann.page.locator(".notice").allTextContents(), ["Bob came in", "Cleo came in", "Cleo left"], "who comes back after the server is no news");
  await ann.shot("9-back");
});

step("one leaves", async () => {
  await bob.context.close();
  await ann.page.locator(".notice", { hasText: "Bob left" }).waitFor();
  await ann.people("Ann Lee");
});

let failed = false;
try {
  for (const [name, run] of steps) {
    const begin = Date.now();
    await run();
    console.log(`ok ${name} (${((Date.now() - begin) / 1000).toFixed(1)} s)`);
  }
  assert.deepEqual(complaints, [], "what the pages complained about");
} catch (err) {
  failed = true;
  console.error(err);
  console.error(complaints.join("\n"));
  console.error(server.log);
  for (const [i, [name, page]] of pages.entries()) {
    await page.screenshot({ path: join(OUT, `failed-${i}-${name.replace(/\W/g, "_")}.png`), timeout: 3_000 }).catch(() => {});
  }
} finally {
  await browser.close();
  await server.stop("SIGTERM");
}
process.exit(failed ? 1 : 0);
