// The page: asks while a person draws, drops a picture or pastes one.

import { ask, drop, find, forget, forgetWhen, make, released, say } from "./_tandem/answer.js";

// ---- drawing ----

const canvas = find("canvas");
const ink = canvas.getContext("2d", { willReadFrequently: true });
const BRUSH = canvas.width / 11;
const SENT = 96; // pixels a side: several for each that the model sees, and small to send
let drawn = false;
let picture = null; // what was dropped, as it goes to the service

forgetWhen(() => !drawn && !picture);

function clear() {
  ink.clearRect(0, 0, canvas.width, canvas.height);
  canvas.classList.remove("picture");
  drawn = false;
  picture = null;
  drop();
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
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  take(event.clipboardData.files[0]);
});
find("key").addEventListener("change", () => { if (drawn || picture) ask(question); });
find("clear").addEventListener("click", clear);
find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });

try {
  const model = await released();
  if (model?.inputs.includes("images")) find("pad").hidden = false;
  else location.replace("_tandem/"); // the model takes values: the form asks for them
} catch {
  say("The service cannot be reached.", true);
}
