// Sources of the page → kalamdb/edge/http/ui: hashed assets, index.html, manifest.json.
//
// The same sources and the same package-lock.json give the same bytes. The manifest holds a digest
// of the sources; tests/unit/edge_http/test_page.py computes it too, so that a build that belongs to
// other sources is found where no npm is.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const OUT = join(HERE, "../kalamdb/edge/http/ui");
const PUBLIC = "/ui/assets/";
const NOTICES = join(OUT, "LICENSES.txt");

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** Every file the build reads that is ours: the path and the bytes of each, in order. */
function sourcesDigest() {
  const files = readdirSync(join(HERE, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(HERE, join(entry.parentPath, entry.name)));
  const names = [...files, "build.mjs", "package.json", "package-lock.json", "tsconfig.json"].sort();
  return sha256(names.map((name) => `${name} ${sha256(readFileSync(join(HERE, name)))}\n`).join(""));
}

/** What is bundled, and under which terms. */
function notices(inputs) {
  const packages = new Set(
    inputs.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]).filter(Boolean),
  );
  return [...packages].sort().map((name) => {
    const folder = join(HERE, "node_modules", name);
    const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : "see its repository";
    return `${name} ${version}\n\n${text}\n`;
  }).join("\n----\n\n");
}

rmSync(OUT, { recursive: true, force: true });
mkdirSync(OUT, { recursive: true });
const built = await esbuild.build({
  absWorkingDir: HERE,
  entryPoints: { app: "src/main.tsx", icon: "src/icon.svg" },
  outdir: OUT,
  publicPath: PUBLIC,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2023",
  jsx: "automatic",
  jsxImportSource: "preact",
  loader: { ".svg": "copy", ".woff2": "file" },
  minify: true,
  legalComments: "none",
  metafile: true,
});

const outputs = Object.entries(built.metafile.outputs).map(([path, made]) => [basename(path), made]);
const named = (test) => PUBLIC + outputs.find(([name]) => test(name))[0];
const places = {
  "@icon@": named((name) => extname(name) === ".svg"),
  "@sans@": named((name) => name.startsWith("inter-")),
  "@css@": named((name) => extname(name) === ".css"),
  "@js@": named((name) => /^app-.*\.js$/.test(name)),
};
let index = readFileSync(join(HERE, "src/index.html"), "utf8");
for (const [mark, address] of Object.entries(places)) index = index.replaceAll(mark, address);
writeFileSync(join(OUT, "index.html"), index);
writeFileSync(NOTICES, notices(outputs.flatMap(([, made]) => Object.keys(made.inputs))));

const files = readdirSync(OUT).sort();
const manifest = {
  sources: sourcesDigest(),
  files: Object.fromEntries(files.map((name) => [name, sha256(readFileSync(join(OUT, name)))])),
};
writeFileSync(join(OUT, "manifest.json"), `${JSON.stringify(manifest, null, 1)}\n`);
