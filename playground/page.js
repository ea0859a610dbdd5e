"use strict";

const $ = (id) => document.getElementById(id);
const LARGEST_SIDE = 1024;
const state = { about: null, photo: null, name: "", sample: null, clean: null, sights: [], answer: null, verdict: null,
  shown: null, view: "perturbed", running: null, original: "left" };

// ---------- small helpers ----------

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(text, trouble = false) {
  $("status").textContent = text;
  $("status").classList.toggle("trouble", trouble);
}

const percent = (share) => (share >= 0.1 ? Math.round(share * 100) : Math.round(share * 1000) / 10) + " %";
const seconds = (value) => value.toFixed(value < 1 ? 2 : 1) + " s";

function bytes(base64) {
  const text = atob(base64);
  const data = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) data[i] = text.charCodeAt(i);
  return data;
}

async function pixels(png) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(new Blob([png], { type: "image/png" }), options);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function put(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
}

// The image that was tried: the original plus the difference, value by value.
function perturbed(clean, difference) {
  const image = new ImageData(clean.width, clean.height);
  for (let i = 0; i < image.data.length; i++) {
    image.data[i] = i % 4 === 3 ? 255 : clean.data[i] + difference.data[i] - 128;
  }
  return image;
}

function enlarged(clean, other) {
  const image = new ImageData(clean.width, clean.height);
  for (let i = 0; i < image.data.length; i++) {
    image.data[i] = i % 4 === 3 ? 255 : 128 + 16 * (other.data[i] - clean.data[i]);
  }
  return image;
}

// ---------- settings, which stand in the address ----------

const FIELDS = ["attack", "levels", "network", "target", "seed"];

function remember() {
  const values = new URLSearchParams();
  for (const name of FIELDS) if ($(name).value !== "") values.set(name, $(name).value);
  if (state.sample) values.set("sample", state.sample);
  history.replaceState(null, "", "#" + values);
  $("levels-out").value = $("levels").value;
}

function recall() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const name of FIELDS) {
    const value = values.get(name);
    if (value === null) continue;
    const known = $(name).options;
    if (!known || [...known].some((option) => option.value === value)) $(name).value = value;
  }
  $("levels-out").value = $("levels").value;
  return values.get("sample");
}

function network() {
  return state.about.networks.find((one) => one.name === $("network").value);
}

function fillClasses() {
  $("classes").replaceChildren(...network().classes.map((name) => element("option", undefined, { value: name })));
}

function query() {
  const values = new URLSearchParams({ attack: $("attack").value, levels: $("levels").value,
    network: $("network").value, seed: $("seed").value || "0" });
  const wanted = $("target").value.trim().toLowerCase();
  if (wanted) {
    const place = network().classes.findIndex((name) => name.toLowerCase() === wanted);
    if (place < 0) throw new Error(`“${$("target").value.trim()}” is not a class of this network; choose one of the list.`);
    values.set("target", place);
  }
  return values;
}

// ---------- the photograph ----------

async function choose(blob, name, sample = null) {
  stop();
  Object.assign(state, { photo: blob, name, sample, clean: null, sights: [], answer: null, verdict: null, shown: null });
  for (const id of ["steps", "compare", "survival", "judged"]) $(id).hidden = true;
  $("bars").replaceChildren(element("li", "What it sees will stand here, with its five most probable classes.", { class: "small" }));
  $("sees").textContent = "The network has not looked yet.";
  $("caption").textContent = name;
  show("perturbed");
  say("");
  remember();
  try {
    const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
    const side = Math.min(bitmap.width, bitmap.height);
    const canvas = $("shown");
    canvas.width = canvas.height = Math.min(side, 448);
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, (bitmap.width - side) / 2,
      (bitmap.height - side) / 2, side, side, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", `The photograph ${name}`);
    if (Math.max(bitmap.width, bitmap.height) > LARGEST_SIDE) state.photo = await smaller(bitmap);
  } catch {
    // This browser can't read it. The host may, and otherwise says why not.
    $("shown").getContext("2d").clearRect(0, 0, $("shown").width, $("shown").height);
  }
}

async function smaller(bitmap) {
  const scale = LARGEST_SIDE / Math.max(bitmap.width, bitmap.height);
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
}

async function sample(name) {
  const one = state.about.samples.find((known) => known.name === name) || state.about.samples[0];
  const response = await fetch(`samples/${one.name}`);
  await choose(await response.blob(), one.title, one.name);
}

// ---------- an attempt ----------

async function flip() {
  stop();
  let values;
  try { values = query(); } catch (error) { say(error.message, true); return; }
  const running = new AbortController();
  state.running = running;
  Object.assign(state, { clean: null, sights: [], answer: null, verdict: null, shown: null });
  for (const id of ["steps", "compare", "survival", "judged"]) $(id).hidden = true;
  show("perturbed");
  $("flip").disabled = true;
  $("stop").hidden = false;
  say("Sent.");
  try {
    const response = await fetch(`api/attempts?${values}`, { method: "POST", body: state.photo, signal: running.signal });
    if (!response.ok) {
      const told = await response.json().catch(() => ({ error: `the host answers ${response.status}` }));
      const wait = response.headers.get("Retry-After");
      say(told.error + (wait ? ` (in ${wait} s)` : ""), true);
      return;
    }
    await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), running);
    if (!state.finished && !running.signal.aborted) say("The host ended the attempt early; try again.", true);
  } catch (error) {
    if (!running.signal.aborted) say("The host can't be reached; try again in a moment.", true);
  } finally {
    if (state.running === running) {
      state.running = null;
      $("flip").disabled = false;
      $("stop").hidden = true;
    }
  }
}

function stop() {
  if (state.running) state.running.abort();
  state.running = null;
  $("flip").disabled = false;
  $("stop").hidden = true;
}

async function read(reader, running) {
  let text = "";
  state.finished = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done || running.signal.aborted) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const [first, second] = event.split("\n");
      await on[first.slice("event: ".length)](JSON.parse(second.slice("data: ".length)));
    }
  }
}

const on = {
  queued: ({ place }) => say(`Waiting: ${place} before you.`),
  refused: ({ error }) => { state.finished = true; say(error, true); },
  clean: async (event) => {
    state.clean = { ...event, bytes: bytes(event.png), image: await pixels(bytes(event.png)) };
    draw(event.top);
    sees(event.name, true);
    put($("before"), state.clean.image);
    look(state.clean.image);
    say(event.unsure ? "The network is unsure of this photograph; no validator would send it. The attack goes on." :
      "Attacking.");
  },
  sight: async (event) => {
    const image = perturbed(state.clean.image, await pixels(bytes(event.difference)));
    state.sights.push({ ...event, image });
    step(state.sights.length - 1);
    $("steps").hidden = false;
    curve();
  },
  answer: async (event) => {
    state.answer = { ...event, bytes: bytes(event.png), image: await pixels(bytes(event.png)) };
    look(state.answer.image);
    draw(event.top);
    const value = `${event.changed.toLocaleString("en")} of ${(state.clean.width * state.clean.height * 3)
      .toLocaleString("en")} values were changed (${percent(event.share)}), each by at most ${event.levels} of 255 levels.`;
    $("little").textContent = value;
    if (event.flipped) {
      sees(event.name, false);
      say(`Flipped after ${seconds(event.first_flip)}. ${value}`);
    } else {
      say(`Not flipped within ${seconds(state.about.seconds)}: the best try has a margin of ${event.margin.toFixed(2)}. ` +
        "Allow more levels, or take another attack.", true);
    }
    $("compare").hidden = false;
    blind();
  },
  survival: (event) => { state.survival = event.networks; },
  verdict: (event) => {
    state.verdict = event;
    const accepted = event.accepted;
    $("verdict").replaceChildren(element("strong", accepted ? "Accepted." : `Refused: ${event.outcome}.`,
      { class: accepted ? "right" : "wrong" }), ` ${event.detail || (accepted ? "A miner would be paid for this image." : "")}`);
    $("gates").replaceChildren(...event.gates.map((gate) => {
      const row = element("li");
      row.append(element("span", gate.name), element("span", `${gate.state}${gate.sentence ? ": " + gate.sentence : ""}`,
        { class: gate.state === "refused" ? "wrong" : "" }));
      return row;
    }));
    const points = event.score;
    $("score").textContent = `Score ${points.score.toFixed(3)}: quality ${points.quality.toFixed(3)}, ` +
      `speed ${points.speed.toFixed(3)} (policy ${points.policy}).${event.notes.map((note) => " Note: " + note + ".").join("")}`;
    $("command").textContent = `perturb score ${state.clean.id}.original.png ${state.clean.id}.perturbed.png ` +
      `--label ${state.clean.label} --response-ms ${event.response_ms}`;
    survives(event.persists);
    $("judged").hidden = false;
  },
  done: () => { state.finished = true; },
};

// ---------- what is shown ----------

function sees(name, right) {
  const text = right ? "The network sees " : "The network now sees ";
  $("sees").replaceChildren(text, element("strong", name, { class: right ? "right" : "wrong" }),
    right ? "." : `. It was ${state.clean.name}.`);
}

function draw(top) {
  const label = state.clean ? state.clean.label : top[0].label;
  $("bars").replaceChildren(...top.map((one, place) => {
    const item = element("li", undefined, { class: `${one.label === label ? "true" : "false"}${place ? "" : " first"}` });
    const name = element("span", undefined, { class: "name" });
    name.append(element("span", one.name), element("span", percent(one.share)));
    item.append(name, element("meter", undefined, { min: 0, max: 1, value: one.share, "aria-label": one.name }));
    return item;
  }));
}

function look(image) {
  state.shown = image;
  show(state.view);
}

function show(view) {
  state.view = view;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  const slider = view === "slider" && state.clean !== null;
  $("before").hidden = $("handle").hidden = !slider;
  $("split-row").hidden = !slider;
  if (state.clean === null || state.shown === null) return;
  const clean = state.clean.image;
  put($("shown"), view === "original" ? clean : view === "difference" ? enlarged(clean, state.shown) : state.shown);
  const names = { original: "the original", perturbed: "the perturbed image", slider: "original and perturbed image",
    difference: "the difference times 16, grey where nothing changed" };
  const best = state.answer ? `${state.answer.name}, ${percent(state.answer.top[0].share)}` : state.clean.name;
  $("shown").setAttribute("aria-label", `${names[view]}; the network sees ${view === "original" ? state.clean.name : best}`);
  $("caption").textContent = `${state.name}: ${names[view]}, ${state.clean.width} × ${state.clean.height} pixels`;
  split();
}

function split() {
  const part = Number($("split").value);
  $("before").style.clipPath = `inset(0 ${100 - part}% 0 0)`;
  $("handle").style.left = `${part}%`;
}

function step(place) {
  const sight = state.sights[place];
  $("scrub").max = String(state.sights.length - 1);
  $("scrub").value = String(place);
  $("scrub-out").value = `${place + 1} of ${state.sights.length}`;
  draw(sight.top);
  sees(sight.top[0].name, sight.top[0].label === state.clean.label);
  $("step-text").textContent = `Margin ${sight.margin.toFixed(2)}, ${percent(sight.share)} of the values changed by at most ` +
    `${sight.levels}${sight.levels === 1 ? " level" : " levels"}` +
    (sight.inside ? "." : "; outside the bounds, so it is no answer.");
  look(sight.image);
  curve(place);
}

function curve(now = state.sights.length - 1) {
  const margins = [-state.clean.margin, ...state.sights.map((sight) => sight.margin)];
  const high = Math.max(1, ...margins), low = Math.min(-1, ...margins);
  const x = (place) => (margins.length < 2 ? 0 : 600 * place / (margins.length - 1));
  const y = (margin) => 8 + 144 * (high - margin) / (high - low);
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  $("curve").replaceChildren(
    svg("line", { class: "zero", x1: 0, x2: 600, y1: y(0), y2: y(0) }),
    svg("polyline", { class: "line", points: margins.map((margin, place) => `${x(place)},${y(margin)}`).join(" ") }),
    svg("line", { class: "now", x1: x(now + 1), x2: x(now + 1), y1: 0, y2: 160 }));
}

function survives(persists) {
  const rows = [];
  const names = { jpeg95: "saved as JPEG, quality 95", jpeg75: "saved as JPEG, quality 75", half_size: "half size and back" };
  for (const [name, text] of Object.entries(names)) if (persists) rows.push([text, persists[name] ? "yes" : "no"]);
  for (const one of state.survival || []) {
    rows.push([`shown to ${one.network}`, one.flipped ? `yes: ${one.before} becomes ${one.after}` : `no: ${one.after}`]);
  }
  $("survives").replaceChildren(...rows.map(([what, how]) => {
    const row = element("tr");
    row.append(element("td", what), element("td", how));
    return row;
  }));
  $("survival").hidden = rows.length === 0;
}

// ---------- which is the original? ----------

function blind() {
  state.original = crypto.getRandomValues(new Uint8Array(1))[0] & 1 ? "left" : "right";
  for (const side of ["left", "right"]) {
    put($(`${side}-picture`), side === state.original ? state.clean.image : state.answer.image);
    $(side).classList.remove("yes");
  }
  $("blind-text").textContent = "Press the one that you take for the original. The keys 1 and 2 do it too.";
}

function guess(side) {
  if (!state.answer) return;
  $(state.original).classList.add("yes");
  $("blind-text").textContent = side === state.original ? "Right. By luck? The pictures differ in the last digit of some values." :
    "No: that is the perturbed one. The original is marked.";
}

// ---------- the pair as a file ----------

function tar(files) {
  const text = new TextEncoder(), blocks = [];
  for (const [name, data] of files) {
    const head = new Uint8Array(512);
    const write = (at, value) => head.set(text.encode(value), at);
    write(0, name);
    write(100, "0000644\0" + "0000000\0" + "0000000\0" + data.length.toString(8).padStart(11, "0") + "\0" + "00000000000\0");
    write(148, "        ");
    write(156, "0");
    write(257, "ustar\0" + "00");
    write(148, head.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0") + "\0 ");
    blocks.push(head, data, new Uint8Array((512 - data.length % 512) % 512));
  }
  return new Blob([...blocks, new Uint8Array(1024)], { type: "application/x-tar" });
}

function download() {
  const id = state.clean.id;
  const record = { ...state.verdict.record, response_ms: state.verdict.response_ms, score: state.verdict.score };
  const file = tar([[`${id}.original.png`, state.clean.bytes], [`${id}.perturbed.png`, state.answer.bytes],
    [`${id}.json`, new TextEncoder().encode(JSON.stringify(record, null, 1))]].map(([name, data]) => [name, data]));
  const link = element("a", undefined, { href: URL.createObjectURL(file), download: `${id.slice(0, 12)}.tar` });
  link.click();
  URL.revokeObjectURL(link.href);
}

// ---------- events of the page ----------

function own(file) {
  if (file) choose(file, file.name || "pasted photograph");
}

function listen() {
  $("flip").addEventListener("click", flip);
  $("stop").addEventListener("click", () => { stop(); say("Stopped."); });
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", (event) => { own(event.target.files[0]); event.target.value = ""; });
  }
  for (const id of FIELDS) $(id).addEventListener("input", remember);
  $("network").addEventListener("input", fillClasses);
  $("scrub").addEventListener("input", () => step(Number($("scrub").value)));
  $("split").addEventListener("input", split);
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => { if (state.answer) state.shown = state.answer.image; show(button.dataset.view); });
  }
  for (const side of ["left", "right"]) $(side).addEventListener("click", () => guess(side));
  $("download").addEventListener("click", download);
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && "12".includes(event.key)) {
      guess(event.key === "1" ? "left" : "right");
    }
  });
  document.addEventListener("paste", (event) => own([...event.clipboardData.files][0]));
  document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    own(event.dataTransfer.files[0]);
  });
}

async function start() {
  state.about = await (await fetch("api/about")).json();
  const option = (name, text = name) => element("option", text, { value: name });
  $("attack").replaceChildren(...state.about.attacks.map((name) =>
    option(name, name === "pgd+grid" ? "pgd, then grid to shrink the change" : name)));
  $("network").replaceChildren(...state.about.networks.map((one) => option(one.name)));
  $("levels").max = $("levels").value = String(state.about.bounds.max_levels);
  const wanted = recall();
  fillClasses();
  for (const one of state.about.samples) {
    const button = element("button", one.title, { type: "button" });
    button.addEventListener("click", () => sample(one.name));
    $("samples").append(button);
  }
  listen();
  await sample(wanted);
  document.body.dataset.ready = "true";
}

start().catch(() => say("The host can't be reached; load the page again.", true));
