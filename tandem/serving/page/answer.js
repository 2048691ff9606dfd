// Asks POST /score and shows the answer as bars, and which release gave it. For any page that has the
// elements named here; see form.js.

export const find = (id) => document.getElementById(id);
export const make = (name, text = "", space = null) => {
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  node.textContent = text;
  return node;
};
const SVG = "http://www.w3.org/2000/svg";
const percent = (share) => `${(share * 100).toFixed(1)} %`;

// ---- asking: one question at a time, and of those that came meanwhile only the newest ----

let asking = false;
let next = null;
let empty = () => false; // whether nothing is asked any more

export function forgetWhen(nothingIsAsked) {
  empty = nothingIsAsked;
}

export function drop() {
  next = null;
}

export async function ask(question) {
  next = question;
  if (asking) return;
  asking = true;
  while (next) {
    const body = JSON.stringify(next());
    next = null;
    try {
      const headers = { "Content-Type": "application/json" };
      const key = find("key").querySelector("input").value;
      if (key) headers["X-API-Key"] = key;
      const answer = await fetch(new URL("score", import.meta.url), { method: "POST", headers, body });
      if (answer.status === 401) find("key").hidden = false;
      const said = await answer.json();
      if (answer.ok) show(said);
      else say(said.detail ?? `The service answers ${answer.status}.`, true);
    } catch {
      say("The service cannot be reached.", true);
    }
  }
  asking = false;
  if (empty()) forget();
}

export function say(text, alarm = false) {
  find("status").textContent = text;
  find("status").classList.toggle("alarm", alarm);
}

function show({ predictions: [first], milliseconds }) {
  const regression = "value" in first;
  const text = regression ? [first.value].flat().map((value) => Number(value.toPrecision(6))).join(", ") : first.labels[0];
  find("best").textContent = text;
  find("best").classList.add("known");
  find("best").classList.toggle("long", text.length > 3);
  find("bars").hidden = regression;
  if (!regression) bars(first);
  const spoken = regression ? text : `${first.labels[0]}, ${percent(first.probabilities[0])}`;
  say(`${spoken} – answered in ${milliseconds < 1 ? milliseconds.toFixed(2) : milliseconds.toFixed(1)} ms`);
}

function bars({ labels, probabilities }) {
  const list = find("bars");
  while (list.children.length > labels.length) list.lastChild.remove();
  while (list.children.length < labels.length) {
    const item = make("li");
    const picture = make("svg", "", SVG);
    picture.setAttribute("aria-hidden", "true");
    const bar = make("rect", "", SVG);
    bar.setAttribute("height", "100%");
    bar.setAttribute("rx", "8");
    picture.append(bar);
    item.append(make("b"), picture, make("span"));
    list.append(item);
  }
  labels.forEach((label, rank) => {
    const item = list.children[rank];
    item.querySelector("b").textContent = label;
    item.querySelector("rect").setAttribute("width", `${probabilities[rank] * 100}%`);
    item.querySelector("span").textContent = percent(probabilities[rank]);
  });
}

export function forget() {
  find("best").textContent = "?";
  find("best").classList.remove("known", "long");
  find("bars").replaceChildren();
  say("Nothing asked yet.");
}

// ---- which release answers ----

export async function released() {
  const { app, model, release, started } = await (await fetch(new URL("version", import.meta.url))).json();
  document.title = app.name;
  find("name").textContent = app.name;
  const metrics = Object.entries(model.metrics ?? {});
  const [metric] = metrics.filter(([name]) => /accuracy|r2/.test(name)).concat(metrics);
  const shown = [
    ["Release", release ? `${release}` : null],
    ["Commit", app.commit ? app.commit.slice(0, 12) : null, "code"],
    ["Model", model.version ? `${model.name} ${model.version}` : model.name],
    [metric?.[0].replaceAll("_", " ") ?? "", metric ? `${Number(metric[1].toPrecision(4))}` : null],
    ["Answers by", { onnx: "ONNX Runtime", sklearn: "scikit-learn" }[model.runtime] ?? model.runtime],
    ["Since", new Date(started).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })],
  ];
  for (const [term, text, tag] of shown) {
    if (!text) continue;
    const entry = make("div");
    const value = make("dd");
    value.append(tag ? make(tag, text) : text);
    entry.append(make("dt", term.charAt(0).toUpperCase() + term.slice(1)), value);
    find("release").append(entry);
  }
  return model;
}
