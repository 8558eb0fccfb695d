// Does with a running inventory server what ../client does, and prints the same.
// It exits with code 1 at the first answer that is wrong.
//
//   node dist/scenario.js [url [warehouse]]

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";

import { NotEnoughStockSchema, WarehouseService, type Reservation } from "./gen/inventory/v1/inventory_pb.js";

const [url = "http://127.0.0.1:8080", warehouse = `ts-${Date.now()}`] = process.argv.slice(2);

const client = createClient(
  WarehouseService,
  createConnectTransport({ baseUrl: url, httpVersion: "1.1", useHttpGet: true }),
);

await items();
await deliveries();
await reservations();
await crowd();
await search();
await report();
await pages();

async function items() {
  for (const item of [
    { sku: "drill", name: "Cordless drill", description: "With two batteries", price: 8999n },
    { sku: "bits", name: "Wood bits", description: "A set of ten for every drill", price: 1250n },
  ]) {
    const res = await client.addItem({ warehouse, ...item });
    console.log(`added ${res.item?.sku}: ${res.item?.name}, ${res.item?.price} cents`);
  }
  await refused("adding drill again", client.addItem({ warehouse, sku: "drill", name: "Another" }), Code.AlreadyExists);
}

async function deliveries() {
  for (const { sku, quantity } of [
    { sku: "drill", quantity: 10n },
    { sku: "bits", quantity: 4n },
  ]) {
    // Twice, as one does who did not get the answer: it is received once.
    for (let i = 0; i < 2; i++) {
      const res = await client.receive({ warehouse, sku, quantity, delivery: "monday" });
      want(`of ${sku} on hand`, res.item?.onHand, quantity);
    }
  }
  console.log("received 10 drill and 4 bits");
  await refused("receiving a saw", client.receive({ warehouse, sku: "saw", quantity: 1n }), Code.NotFound);
}

async function reservations() {
  const lines = (drills: bigint, bits: bigint) => [
    { sku: "drill", quantity: drills },
    { sku: "bits", quantity: bits },
  ];
  const made = await client.reserve({ warehouse, orderId: "first", lines: lines(3n, 2n) });
  console.log(`reserved ${text(made.reservation)}`);

  const err = await refused(
    "reserving too much",
    client.reserve({ warehouse, orderId: "second", lines: lines(1n, 3n) }),
    Code.FailedPrecondition,
  );
  const [missing] = err.findDetails(NotEnoughStockSchema);
  if (missing === undefined) {
    throw new Error(`${err.message}: it does not say what is missing`);
  }
  for (const s of missing.shortages) {
    console.log(`  ${s.requested} of ${s.sku}, and ${s.available} are available`);
  }
  const { item } = await client.getItem({ warehouse, sku: "drill" });
  want("drills on hand", item?.onHand, 10n);
  want("drills reserved", item?.reserved, 3n);
  want("drills available", item?.available, 7n);

  const shipped = await client.ship({ warehouse, orderId: "first" });
  console.log(`shipped ${text(shipped.reservation)}`);
  await refused("releasing it", client.release({ warehouse, orderId: "first" }), Code.FailedPrecondition);
}

// crowd has more orders at once than there is stock for.
async function crowd() {
  const orders = await Promise.allSettled(
    Array.from({ length: 20 }, (_, i) =>
      client.reserve({ warehouse, orderId: `crowd-${i}`, lines: [{ sku: "drill", quantity: 1n }] }),
    ),
  );
  let made = 0;
  for (const order of orders) {
    if (order.status === "fulfilled") {
      made++;
    } else if (ConnectError.from(order.reason).code !== Code.FailedPrecondition) {
      throw order.reason;
    }
  }
  console.log(`of 20 orders at once, ${made} reserved the last drills`);
  want("orders", made, 7);
}

async function search() {
  const { results } = await client.search({ warehouse, query: "drilling" });
  for (const r of results) {
    console.log(`found ${r.sku}: ${r.snippet}`);
  }
  want("first", results[0]?.sku, "drill");
  await refused("searching a single quote", client.search({ warehouse, query: `"` }), Code.InvalidArgument);
}

async function report() {
  const { items, movements } = await client.stockReport({ warehouse });
  for (const i of items) {
    console.log(`${i.rank}. ${i.sku}: ${i.onHand} on hand, ${i.value} cents, ${(100 * i.share).toFixed(2)}%`);
  }
  for (const m of movements) {
    console.log(`  ${m.sku} ${m.quantity > 0n ? "+" : ""}${m.quantity}: ${m.onHand} on hand`);
  }
  want("drills", items[0]?.value, 7n * 8999n);
  want("movements", movements.length, 4);
}

async function pages() {
  let [pages, count, pageToken] = [0, 0, ""];
  do {
    const res = await client.listReservations({ warehouse, pageSize: 3, pageToken });
    pages++;
    count += res.reservations.length;
    pageToken = res.nextPageToken;
  } while (pageToken !== "");
  console.log(`${count} reservations on ${pages} pages`);
  want("reservations", count, 8);
  want("pages", pages, 3);
}

// refused returns the error of a call, which must have that code.
async function refused(what: string, call: Promise<unknown>, code: Code): Promise<ConnectError> {
  try {
    await call;
  } catch (reason) {
    const err = ConnectError.from(reason);
    want(`${what}: ${err.message}: code`, Code[err.code], Code[code]);
    console.log(`${what}: ${codeName(code)}: ${err.rawMessage}`);
    return err;
  }
  throw new Error(`${what} was not refused`);
}

// codeName is the name of a code in the protocol, such as not_found.
function codeName(code: Code): string {
  return Code[code].replace(/(?!^)[A-Z]/g, (c) => `_${c}`).toLowerCase();
}

function want<T>(what: string, got: T | undefined, wanted: T) {
  if (got !== wanted) {
    throw new Error(`${what}: ${got}, want ${wanted}`);
  }
}

function text(r: Reservation | undefined): string {
  return `${r?.orderId}: ${r?.lines.map((l) => `${l.quantity} ${l.sku}`).join(", ")}`;
}
