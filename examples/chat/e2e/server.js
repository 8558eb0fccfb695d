import { spawn } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** The server of the chat, with its data in a folder of its own. */
export class Server {
  #folder;
  #process;
  url;
  log = "";

  constructor(folder) {
    this.#folder = folder;
  }

  /** Starts it on a free port, and later on the same one. Resolves when it serves. */
  async start() {
    const address = this.url ? new URL(this.url).host : "127.0.0.1:0";
    const started = spawn(join(this.#folder, "chat"), ["--listen", address, "--data", join(this.#folder, "data")]);
    this.#process = started;
    writeFileSync(join(this.#folder, "pid"), String(started.pid));
    started.stderr.on("data", (data) => (this.log += data));
    this.url = await new Promise((resolve, reject) => {
      started.once("error", reject);
      started.once("exit", (code) => reject(new Error(`the server ended with ${code}:\n${this.log}`)));
      createInterface(started.stdout).on("line", (line) => {
        const url = /serves (http:\S+)/.exec(line)?.[1];
        if (url) {
          resolve(url);
        }
      });
    });
  }

  /** Ends it by a signal, and resolves when it is gone. */
  async stop(signal) {
    const ended = this.#process;
    if (ended && ended.exitCode === null && ended.signalCode === null) {
      const exit = new Promise((resolve) => ended.once("exit", resolve));
      ended.kill(signal);
      await exit;
    }
    rmSync(join(this.#folder, "pid"), { force: true });
  }
}
