// The API to read, from the document that the server makes of itself.
import { ask, make, show, takeKey } from "./api.js";

const named = (schema) => schema?.$ref?.split("/").at(-1);
const kind = (schema) =>
  named(schema) ??
  (schema?.anyOf
    ? schema.anyOf.map(kind).join(" or ")
    : schema?.type === "array"
      ? `list of ${kind(schema.items)}`
      : (schema?.enum?.join(", ") ?? schema?.const ?? schema?.type ?? "anything"));
const rows = (head, lines) =>
  make(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": head.join(", ") },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...head.map((each) => make("th", { scope: "col" }, each)))),
      make("tbody", {}, ...lines.map((line) => make("tr", {}, ...line.map((each) => make("td", {}, each))))),
    ),
  );
const link = (schema) => (named(schema) ? make("a", { href: `#${named(schema)}` }, named(schema)) : kind(schema));

function operation(method, path, about) {
  const inner = [make("p", {}, about.description ?? "")];
  if (about.parameters)
    inner.push(
      rows(
        ["parameter", "in", "type", "meaning"],
        about.parameters.map((each) => [
          each.name,
          each.in,
          kind(each.schema),
          each.description ?? each.schema.description ?? "",
        ]),
      ),
    );
  const body = Object.entries(about.requestBody?.content ?? {});
  if (body.length)
    inner.push(
      rows(
        ["body", "schema"],
        body.map(([type, { schema }]) => [type, link(schema)]),
      ),
    );
  inner.push(
    rows(
      ["status", "schema", "meaning"],
      Object.entries(about.responses).map(([status, { content, description }]) => [
        status,
        link(Object.values(content ?? {})[0]?.schema ?? { type: "nothing" }),
        description,
      ]),
    ),
  );
  return make(
    "details",
    {},
    make("summary", {}, make("code", {}, `${method.toUpperCase()} ${path}`), ` ${about.summary ?? ""}`),
    ...inner,
  );
}

function schema(name, about) {
  const lines = Object.entries(about.properties ?? {}).map(([key, each]) => [key, link(each), each.description ?? ""]);
  return make(
    "section",
    { id: name },
    make("h3", {}, name),
    make("p", {}, about.description ?? ""),
    rows(["key", "type", "meaning"], lines),
  );
}

async function read() {
  try {
    const { paths, components } = await ask("openapi.json");
    const operations = Object.entries(paths).flatMap(([path, verbs]) =>
      Object.entries(verbs).map(([method, about]) => [about.tags?.[0] ?? "more", operation(method, path, about)]),
    );
    const tags = [...new Set(operations.map(([tag]) => tag))];
    document
      .getElementById("operations")
      .replaceChildren(
        ...tags.flatMap((tag) => [
          make("h2", {}, tag),
          ...operations.filter(([own]) => own === tag).map(([, made]) => made),
        ]),
        make("h2", {}, "Schemas"),
        ...Object.entries(components.schemas).map(([name, about]) => schema(name, about)),
      );
    show("trouble", "");
  } catch (error) {
    show("trouble", error.message);
  }
}

takeKey(read);
read();
