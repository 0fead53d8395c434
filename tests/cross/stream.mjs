// Reads a prompt and writes tokens by the library of an artefact, saves the state: node stream.mjs DIR PROMPT COUNT STATE
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, prompt, count, state] = process.argv.slice(2);
const { open } = await import(pathToFileURL(join(folder, "cdrmix.mjs")));
const model = await open(name => readFile(join(folder, name)));
model.read(prompt);
process.stdout.write(prompt);
for (const text of model.write({ count: Number(count) })) process.stdout.write(text);
await writeFile(state, model.save());
const again = await open(name => readFile(join(folder, name)));
again.load(await readFile(state));
if (again.tokens !== model.tokens || again.latest() !== model.latest()) throw new Error("another state was loaded");
