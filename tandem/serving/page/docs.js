// The API's page: the OpenAPI document, made readable, with a line for the terminal for each address.

const make = (name, text = "", kind = "") => {
  const node = document.createElement(name);
  node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const here = new URL("..", location.href).href.replace(/\/$/, "");
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function shortened(value) {
  // A row of many numbers would hide the shape that the example is there to show.
  return JSON.stringify(value).replace(/((?:-?[\d.e+-]+,){6})(?:-?[\d.e+-]+,?){6,}/g, "$1 …");
}

function named(schema, document) {
  if (!schema) return null;
  const name = schema.$ref?.split("/").pop();
  return name ? [name, document.components.schemas[name]] : null;
}

function curl(path, method, example, guarded) {
  const lines = [`curl -s ${quoted(here + path)}`];
  if (guarded) lines.push("-H 'X-API-Key: …'");
  if (method !== "get" && example === undefined) lines.unshift(lines.shift().replace("curl -s", `curl -s -X ${method.toUpperCase()}`));
  if (example !== undefined) lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(example))}`);
  return lines.join(" \\\n  ");
}

function details(summary, text, open = false) {
  const box = make("details");
  box.open = open;
  box.append(make("summary", summary));
  const block = make("pre");
  block.tabIndex = 0;
  block.append(make("code", text));
  box.append(block);
  return box;
}

function operation(path, method, told, document) {
  const section = make("section");
  section.id = told.operationId;
  const title = make("h2");
  title.append(make("span", method.toUpperCase(), `method ${method}`), make("code", path));
  section.append(title, make("p", told.summary));
  const sent = told.requestBody?.content["application/json"];
  if (sent) {
    section.append(details("What is sent", shortened(sent.example), true));
    const schema = named(sent.schema, document);
    if (schema) section.append(details(`Schema of ${schema[0]}`, JSON.stringify(schema[1], null, 2)));
  }
  section.append(details("In a terminal", curl(path, method, sent?.example, told.security)));
  const list = make("dl");
  for (const [status, answer] of Object.entries(told.responses)) {
    const entry = make("div");
    entry.append(make("dt", status), make("dd", answer.description));
    list.append(entry);
  }
  const good = named(told.responses["200"]?.content["application/json"]?.schema, document);
  if (good) section.append(details(`Schema of ${good[0]}`, JSON.stringify(good[1], null, 2)));
  section.append(list);
  return section;
}

try {
  const document_ = await (await fetch("openapi.json")).json();
  document.title = `${document_.info.title} – API`;
  document.getElementById("title").textContent = `${document_.info.title} – API`;
  document.getElementById("about").textContent = document_.info.description;
  for (const [template, methods] of Object.entries(document_.paths)) {
    let path = template;
    for (const { name, schema } of methods.parameters ?? []) path = path.replace(`{${name}}`, schema.enum?.[0] ?? name.toUpperCase());
    for (const method of ["get", "post", "put", "patch", "delete"]) {
      if (methods[method]) document.getElementById("operations").append(operation(path, method, methods[method], document_));
    }
  }
} catch {
  document.getElementById("about").textContent = "The description cannot be loaded.";
}
