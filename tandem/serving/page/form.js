// The page: a field for each value that the model takes, with an example in them.

import { ask, find, make, released, say } from "./answer.js";

async function form(features) {
  const { paths } = await (await fetch("openapi.json")).json();
  const { post } = Object.values(paths).find(({ post }) => post?.operationId === "score");
  const example = post.requestBody.content["application/json"].example.rows[0].flat(Infinity);
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

try {
  const model = await released();
  if (model) await form(model.features);
  else say("This app has no model.");
} catch {
  say("The service cannot be reached.", true);
}
