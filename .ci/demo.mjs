// demo.mjs http|stdio CLIENT.JSON COMMIT LINES.JSON
//
// What an agent does, with the official client: it looks at the tools, runs a
// command, reads and edits a file, and reads memory, all below the path repo. It ends with 1 when an answer
// is not what the command line saw.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [how, file, commit, lines] = process.argv.slice(2);
const mesh = JSON.parse(readFileSync(file, "utf8"));

const transport =
  how === "stdio"
    ? new StdioClientTransport({ command: "wsmesh", args: ["mcp", "-w", "repo", "--scope", "repo"], env: process.env })
    : new StreamableHTTPClientTransport(new URL(`${mesh.http}/mcp`), {
        requestInit: {
          headers: { Authorization: `Bearer ${mesh.token}`, "X-Workspace": "repo", "X-Scope-Path": "repo" },
        },
      });
const client = new Client({ name: "demo", version: "1" });
await client.connect(transport);

async function call(name, args) {
  const result = await client.callTool({ name, arguments: args });
  const text = result.content.map((c) => c.text).join("\n");
  console.log(`${name} ${JSON.stringify(args)}`);
  console.log("  " + text.split("\n").slice(0, 3).join("\n  ").slice(0, 300));
  return result;
}

const { tools } = await client.listTools();
console.log(`${tools.length} tools: ${tools.map((t) => t.name).join(" ")}`);

const ran = await call("exec", { command: "git rev-parse HEAD" });
assert.equal(ran.structuredContent.exitCode, 0);
assert.equal(ran.structuredContent.stdout.trim(), commit);

const read = await call("read_text_file", { path: "README.md", limit: 1 });
assert.match(read.content[0].text, /^# wsmesh/);

await call("write_file", { path: "note.txt", content: "one\ntwo\n" });
const edited = await call("edit_file", { path: "note.txt", edits: [{ oldText: "two", newText: "three" }] });
assert.ok(!edited.isError);

const missing = await call("read_text_file", { path: "no/such/file" });
assert.ok(missing.isError);
assert.match(missing.content[0].text, /^not_found: /);

const kept = await call("memory_get", { namespace: "demo", key: "result/lines" });
assert.deepEqual(JSON.parse(kept.structuredContent.value), JSON.parse(readFileSync(lines, "utf8")));

await client.close();
