// Checks dashboards against what Grafana publishes: `node check.mjs FILE.json…` prints one problem a line.
//
// @grafana/schema has the types: each dashboard and each panel becomes an object literal that must satisfy them, which
// finds unknown keys and wrong enum values at any depth. @grafana/data has the lists of what the types leave open.

import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import ts from "typescript";

const HERE = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);

// Modules of @grafana/data ask the browser for its language.
globalThis.navigator ??= {};
if (!globalThis.navigator.languages) {
  Object.defineProperty(globalThis, "navigator", { value: { language: "en", languages: ["en"] } });
}
const data = createRequire(import.meta.url)("@grafana/data");

// Keys that Grafana reads and its types do not have. An exception that nothing uses any more is a problem too.
const EXCEPTIONS = {
  definition: "query variables: Grafana's editor shows this text, and its own exports have it",
  expr: "annotations: Grafana 9 reads the query here, later versions in target",
  step: "annotations: the same",
  tagKeys: "annotations: what Prometheus' data source labels a mark with",
  textFormat: "annotations: the mark's text, likewise",
  titleFormat: "annotations: the mark's title, likewise",
  style: "dashboards: dark or light, until Grafana 10",
};
const LEGACY_OVERRIDES = {
  "custom.displayMode": "tables until schemaVersion 38, to which Grafana migrates by itself (custom.cellOptions)",
};

const KINDS = {
  stat: "stat/panelcfg/x/StatPanelCfg",
  gauge: "gauge/panelcfg/x/GaugePanelCfg",
  timeseries: "timeseries/panelcfg/x/TimeSeriesPanelCfg",
  "state-timeline": "statetimeline/panelcfg/x/StateTimelinePanelCfg",
  heatmap: "heatmap/panelcfg/x/HeatmapPanelCfg",
  table: "table/panelcfg/x/TablePanelCfg",
};
const WITHOUT_FIELDS = ["stat", "gauge"];

const LISTS = {
  unit: new Set(data.getValueFormats().flatMap((group) => group.submenu.map((format) => format.value))),
  color: new Set([
    ...data.createTheme().visualization.hues.flatMap((hue) => hue.shades.map((shade) => shade.name)),
    "text", // the theme's own colour of text
  ]),
  reducer: new Set(data.fieldReducers.list().map((reducer) => reducer.id)),
  transformation: new Set(Object.values(data.DataTransformerID)),
  matcher: new Set(Object.values(data.FieldMatcherID)),
};

const TYPES = `
import type {
  AnnotationQuery, Dashboard, DataQuery, FieldConfig, FieldConfigSource, Panel, RowPanel, VariableModel,
} from "@grafana/schema";

// JSON has no enums: their values stand for them.
type Plain<T> = T extends string ? \`\${T}\`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer Item)[] ? Plain<Item>[]
  : T extends object ? { [Key in keyof T]: Plain<T[Key]> }
  : T;
// An option that is left out takes the panel's default.
type Of<Options, Custom> = Plain<Omit<Panel, "options" | "fieldConfig"> & {
  options: Partial<Options>;
  fieldConfig: Omit<FieldConfigSource, "defaults"> & {
    defaults: Omit<FieldConfig, "custom"> & { custom: Partial<Custom> };
  };
}>;
type Annotation = Plain<AnnotationQuery<DataQuery & { expr?: string }>>;
`;

/** The dashboard's parts as literals, one a line, with the type that each must satisfy. */
function source(board, problems, used) {
  const lines = [];
  const add = (where, type, value) => lines.push({ where, text: `(${JSON.stringify(value)}) satisfies ${type};` });
  const without = (value) => {
    const kept = { ...value };
    for (const key of Object.keys(EXCEPTIONS)) {
      if (key in kept) {
        used.add(key);
        delete kept[key];
      }
    }
    return kept;
  };
  const { panels, annotations, templating, ...frame } = board;
  add("dashboard", "Plain<Dashboard>", without(frame));
  for (const query of annotations.list) add(`annotation ${query.name}`, "Annotation", without(query));
  for (const variable of templating.list) add(`variable ${variable.name}`, "Plain<VariableModel>", without(variable));
  for (const panel of panels) {
    const where = `panel ${panel.title}`;
    if (panel.type === "row") {
      add(where, "Plain<RowPanel>", panel);
      continue;
    }
    if (!(panel.type in KINDS)) {
      problems.push(`${where}: no types are named for ${panel.type}`);
      continue;
    }
    const module = `import("@grafana/schema/dist/esm/raw/composable/${KINDS[panel.type]}_types.gen")`;
    const fields = WITHOUT_FIELDS.includes(panel.type) ? "Record<string, never>" : `${module}.FieldConfig`;
    add(where, `Of<${module}.Options, ${fields}>`, panel);
    for (const { properties } of panel.fieldConfig.overrides) {
      for (const { id, value } of properties) {
        if (id in LEGACY_OVERRIDES) {
          used.add(id);
          continue;
        }
        const own = id.startsWith("custom.");
        const key = own ? id.slice("custom.".length) : id;
        add(`${where}, override ${id}`, `Partial<Plain<${own ? fields : "FieldConfig"}>>`, { [key]: value });
      }
    }
  }
  return lines;
}

/** Values that the types leave open and @grafana/data has lists of. */
function* listed(value, key, where) {
  const known = (list, text) => (LISTS[list].has(text) ? [] : [`${where}: Grafana knows no ${list} ${JSON.stringify(text)}`]);
  if (Array.isArray(value)) {
    for (const item of value) yield* listed(item, key, where);
  } else if (value !== null && typeof value === "object") {
    for (const [name, part] of Object.entries(value)) {
      if (name === "color" && typeof part === "string") yield* known("color", part);
      else if (name === "unit") yield* known("unit", part);
      else if (name === "id" && value.value !== undefined && part === "unit") yield* known("unit", value.value);
      else if (name === "calcs") for (const calc of part) yield* known("reducer", calc);
      else if (name === "id" && key === "transformations") yield* known("transformation", part);
      else if (name === "id" && key === "matcher") yield* known("matcher", part);
      else if (name !== "targets") yield* listed(part, name, where);
    }
  }
}

function check(files) {
  const problems = [];
  const used = new Set();
  const programs = new Map();
  for (const file of files) {
    const board = JSON.parse(fs.readFileSync(file, "utf-8"));
    const name = path.basename(file, ".json");
    programs.set(path.join(HERE, `${name}.virtual.ts`), { name, lines: source(board, problems, used) });
    for (const panel of board.panels) problems.push(...listed(panel, "", `${name}: panel ${panel.title}`));
  }
  const head = TYPES.split("\n").length - 1;
  const texts = new Map([...programs].map(([at, { lines }]) => [at, TYPES + lines.map(({ text }) => text).join("\n")]));
  const options = {
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    target: ts.ScriptTarget.ES2022,
    types: [],
    strict: true,
    skipLibCheck: true,
    noEmit: true,
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists, readFile } = host;
  host.fileExists = (at) => texts.has(at) || fileExists.call(host, at);
  host.readFile = (at) => texts.get(at) ?? readFile.call(host, at);
  host.getSourceFile = (at, ...rest) =>
    texts.has(at) ? ts.createSourceFile(at, texts.get(at), ts.ScriptTarget.ES2022) : getSourceFile.call(host, at, ...rest);
  const program = ts.createProgram([...texts.keys()], options, host);
  for (const found of ts.getPreEmitDiagnostics(program)) {
    const message = ts.flattenDiagnosticMessageText(found.messageText, " ");
    const part = programs.get(found.file?.fileName);
    const line = part && found.file.getLineAndCharacterOfPosition(found.start).line - head;
    problems.push(part ? `${part.name}: ${part.lines[line]?.where ?? "types"}: ${message}` : message);
  }
  if (files.length > 1) {
    for (const key of [...Object.keys(EXCEPTIONS), ...Object.keys(LEGACY_OVERRIDES)]) {
      if (!used.has(key)) problems.push(`the exception ${key} is not needed any more`);
    }
  }
  return problems;
}

const problems = check(process.argv.slice(2));
console.log(problems.join("\n"));
process.exitCode = problems.length ? 1 : 0;
