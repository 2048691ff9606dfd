// The page: asks POST /score while a person draws, drops a picture or types, and shows the answer as bars.

const find = (id) => document.getElementById(id);
const make = (name, text = "", space = null) => {
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  node.textContent = text;
  return node;
};
const SVG = "http://www.w3.org/2000/svg";
const percent = (share) => `${(share * 100).toFixed(1)} %`;

// ---- asking: one question at a time, and of those that came meanwhile only the newest ----

let asking = false;
let next = null;

async function ask(question) {
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
      const answer = await fetch("score", { method: "POST", headers, body });
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

function say(text, alarm = false) {
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

function forget() {
  find("best").textContent = "?";
  find("best").classList.remove("known", "long");
  find("bars").replaceChildren();
  say("Nothing asked yet.");
}

// ---- drawing ----

const canvas = find("canvas");
const ink = canvas.getContext("2d", { willReadFrequently: true });
const BRUSH = canvas.width / 11;
const SENT = 96; // pixels a side: several for each that the model sees, and small to send
let drawn = false;
let picture = null; // what was dropped, as it goes to the service

const empty = () => !find("pad").hidden && !drawn && !picture;

function clear() {
  ink.clearRect(0, 0, canvas.width, canvas.height);
  canvas.classList.remove("picture");
  drawn = false;
  picture = null;
  next = null;
  find("hint").hidden = false;
  forget();
}

function stroke(from, to) {
  if (picture) clear();
  ink.lineCap = "round";
  ink.lineJoin = "round";
  ink.lineWidth = BRUSH;
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
  drawn = true;
  find("hint").hidden = true;
  ask(question);
}

function shrunk(source, width, height) {
  const small = make("canvas");
  small.width = width;
  small.height = height;
  const context = small.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return small.toDataURL("image/png");
}

const question = () => ({ images: [picture ?? shrunk(canvas, SENT, SENT)] });

const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * canvas.width,
    y: ((event.clientY - box.top) / box.height) * canvas.height,
  };
};

let last = null;
canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  last = at(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  for (const each of event.getCoalescedEvents?.().concat(event) ?? [event]) {
    const point = at(each);
    stroke(last, point);
    last = point;
  }
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });

// ---- drawing by keyboard ----

const STEP = canvas.width / 32;
const pen = { x: canvas.width / 2, y: canvas.height / 4, down: false };
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

function placePen(visible) {
  const mark = find("pen");
  mark.hidden = !visible;
  mark.classList.toggle("down", pen.down);
  mark.style.left = `${(pen.x / canvas.width) * 100}%`;
  mark.style.top = `${(pen.y / canvas.height) * 100}%`;
}

canvas.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (arrow) {
    const reach = (value) => Math.min(canvas.width - BRUSH / 2, Math.max(BRUSH / 2, value));
    const from = { x: pen.x, y: pen.y };
    pen.x = reach(pen.x + arrow[0] * STEP);
    pen.y = reach(pen.y + arrow[1] * STEP);
    if (pen.down) stroke(from, pen);
  } else if (event.key === " ") {
    pen.down = !pen.down;
    if (pen.down) stroke(pen, pen);
  } else if (["Escape", "Delete", "Backspace"].includes(event.key)) {
    pen.down = false;
    clear();
  } else return;
  event.preventDefault();
  placePen(true);
});
canvas.addEventListener("blur", () => { pen.down = false; placePen(false); });
canvas.addEventListener("focus", () => placePen(canvas.matches(":focus-visible")));

// ---- a picture: dropped, chosen or pasted ----

async function take(file) {
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    say("That file is not a picture that can be read.", true);
    return;
  }
  clear();
  const { width, height } = bitmap;
  const small = Math.min(1, 512 / Math.max(width, height));
  const size = (side) => Math.max(1, Math.round(side * small));
  picture = shrunk(bitmap, size(width), size(height));
  const fit = Math.min(canvas.width / width, canvas.height / height);
  canvas.classList.add("picture");
  ink.imageSmoothingEnabled = fit < 4;
  ink.drawImage(bitmap, (canvas.width - width * fit) / 2, (canvas.height - height * fit) / 2, width * fit, height * fit);
  find("hint").hidden = true;
  ask(question);
}

const paper = find("paper");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); paper.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    paper.classList.remove("over");
    if (name === "drop" && !find("pad").hidden) take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (!find("pad").hidden) take(event.clipboardData.files[0]);
});
find("key").addEventListener("change", () => { if (!empty()) ask(question); });
find("clear").addEventListener("click", clear);
find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });

// ---- a form, for a model that takes values and not pictures ----

async function form(features) {
  const { paths } = await (await fetch("openapi.json")).json();
  const example = paths["/score"].post.requestBody.content["application/json"].example.rows[0].flat(Infinity);
  const many = features.length === 1 && features[0].shape.length;
  const count = many ? features[0].shape.reduce((product, side) => product * side, 1) : 0;
  const fields = many
    ? Array.from({ length: count }, (_, index) => ({ name: `${features[0].name} ${index + 1}`, number: true }))
    : features.map(({ name, dtype }) => ({ name, number: /^(float|u?int|bool)/.test(dtype) }));
  fields.forEach(({ name, number }, index) => {
    const label = make("label", name);
    const input = make("input");
    input.name = name;
    input.inputMode = number ? "decimal" : "text";
    input.autocomplete = "off";
    input.value = example[index] ?? "";
    label.append(input);
    find("fields").append(label);
  });
  const row = () => fields.map(({ number }, index) => {
    const text = find("fields").children[index].querySelector("input").value.trim();
    if (!number) return text;
    return text === "" ? null : Number(text.replace(",", "."));
  });
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const wrong = row().findIndex(Number.isNaN);
    if (wrong < 0) ask(() => ({ rows: [row()] }));
    else say(`${fields[wrong].name} must be a number.`, true);
  });
  find("form").hidden = false;
}

// ---- which release answers ----

async function released({ app, model, release, started }) {
  document.title = app.name;
  find("name").textContent = app.name;
  const kind = model.pictures ? "Draw, and the released model says what it is" : "Type the values, and the released model answers";
  find("summary").textContent = kind;
  const metrics = Object.entries(model.metrics ?? {});
  const [metric] = metrics.filter(([name]) => /accuracy|r2/.test(name)).concat(metrics);
  const shown = [
    ["Release", release ? `${release}` : null],
    ["Commit", app.commit ? app.commit.slice(0, 12) : null, "code"],
    ["Model", model.version ? `${model.name} ${model.version}` : model.name],
    [metric?.[0].replaceAll("_", " ") ?? "", metric ? `${Number(metric[1].toPrecision(4))}` : null],
    ["Answers by", model.runtime === "onnx" ? "ONNX Runtime" : "scikit-learn"],
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
  if (model.pictures) find("pad").hidden = false;
  else await form(model.features);
}

try {
  await released(await (await fetch("version")).json());
} catch {
  say("The service cannot be reached.", true);
}
