import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  resolve: {
    // The package of this repository, from its source.
    alias: { "@durable-go/client": fileURLToPath(new URL("../../../web/durable-client/src/index.ts", import.meta.url)) },
    dedupe: ["@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web"],
  },
  build: {
    target: "es2022",
    modulePreload: false,
  },
  // `npm run dev` shows changes at once; the rooms are those of `go run .`.
  server: { host: "127.0.0.1", proxy: { "/-/": { target: "http://127.0.0.1:8080", ws: true } } },
});
