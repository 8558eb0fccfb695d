import { getByName } from "@durable-go/client";
import { RoomService } from "./gen/chat/v1/chat_pb.js";

const room = getByName(RoomService, "http://127.0.0.1:8080", "lobby");

// Repeated where the network fails, and done once.
const { number } = await room.post({ text: "hi" }, { idempotencyKey: true });
console.log(`posted number ${number}`);

const conn = room.$open(RoomService.method.join, {
  resume: true, // the method has the option in its schema
  onLost: ({ error, delay }) => console.log(`${error.message}; again in ${delay} ms`),
  onOpen: ({ resumed }) => {
    if (!resumed) conn.send({ text: "hello" });
  },
});
for await (const res of conn) {
  console.log(res.text);
  if (res.text === "bye") break; // closes it
}
