"use strict";
const LARGEST = 20 * 2 ** 20, AT_ONCE = 2, TRIES = 4;
const GUIDE = 0.5;       // side of the live mode's square, as a share of the picture's shorter side
const STEPS = 40;        // an arrow key moves the frame by a 40th of the photo's longer side
const SMALLEST = 4;      // pixels of a frame's side
const REMEMBERED = 200;  // predictions of this session
const byId = id => document.getElementById(id);
const waiting = [];
let running = 0, done = 0, total = 0;

// Elements and texts

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function quiet(text, action) {
  const button = make("button", text);
  button.type = "button";
  button.className = "quiet";
  button.onclick = action;
  return button;
}

const percent = share => (100 * share).toFixed(1) + " %";

function picture(address, alt, legend) {
  const image = make("img");
  image.src = address;
  image.alt = alt;
  return make("figure", "", image, make("figcaption", legend));
}

// The service

class NeedsKey extends Error {}

async function request(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key && { Authorization: "Bearer " + key }) };
  const reply = await fetch(path, { ...options, headers });
  if (reply.status === 401) {
    byId("wrong").textContent = key ? "This key is not valid." : "";
    byId("key").hidden = false;
    byId("secret").focus();
    throw new NeedsKey("The service asks for an API key.");
  }
  return reply;
}

const withBox = (path, box) => box ? path + "?box=" + box.join(",") : path;

async function ask(path, file, box) {
  for (let attempt = 1; ; attempt++) {
    let reply;
    try {
      const headers = { "Content-Type": "application/octet-stream" };
      reply = await request(withBox(path, box), { method: "POST", body: file, headers });
    } catch (error) {
      if (error instanceof NeedsKey) throw error;
      throw Error("The service cannot be reached. Is it still running?");
    }
    if (reply.ok) return reply;
    if (reply.status === 503 && attempt < TRIES) {
      const seconds = Number(reply.headers.get("Retry-After")) || 1;
      await new Promise(resolve => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    if (reply.status === 503) throw Error("The service is overloaded. Try again shortly.");
    const why = await reply.json().then(body => body.error, () => "status " + reply.status);
    if (reply.status === 400) throw Error("This file cannot be read as a photo: " + why + ".");
    if (reply.status === 413) throw Error("This photo is too large: " + why + ".");
    throw Error("The service refused this photo: " + why + ".");
  }
}

function describe() {
  return request("model").then(reply => reply.json()).then(model => {
    const validation = model.metrics.validation;
    byId("model").textContent = "Recognises the " + model.classes.length + " classes of “"
      + model.dataset + "”"
      + (validation ? ", with " + percent(validation.accuracy) + " accuracy on its validation photos" : "")
      + ". Classifier version " + model.version + ".";
  }).catch(() => {});
}

byId("key").onsubmit = async event => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("secret").value.trim());
  byId("secret").value = "";
  byId("key").hidden = true;
  await describe();
  if (byId("key").hidden) document.querySelectorAll(".locked").forEach(card => card.retry());
};

// A card for each photo

function show(card, file, prediction, box) {
  card.className = prediction.known ? "" : "unsure";
  const best = prediction.name + " (" + percent(prediction.confidence) + ")";
  const rows = prediction.top.map(entry => {
    const fill = make("div");
    fill.style.width = 100 * entry.confidence + "%";
    const rail = make("div", "", fill);
    rail.className = "rail";
    rail.setAttribute("aria-hidden", "true");
    return make("tr", "", make("td", entry.name), make("td", "", rail),
      make("td", percent(entry.confidence)));
  });
  const why = quiet("Explain", async () => {
    why.disabled = true;
    try {
      const address = URL.createObjectURL(await (await ask("explain", file, box)).blob());
      card.firstChild.append(picture(address, "Map of what led to the prediction",
        "Red: speaks for " + prediction.name));
      why.remove();
    } catch (error) {
      why.after(make("p", error.message));
      why.disabled = false;
    }
  });
  const buttons = make("div", "", why, quiet("Mark the sign", () => mark(file)),
    quiet("Copy as curl", event => copy(event.target, curl(file, box))));
  buttons.className = "buttons left";
  card.lastChild.replaceChildren(
    make("h2", prediction.known ? prediction.name : "Unknown"),
    make("p", prediction.known ? percent(prediction.confidence) + " confidence"
      : "The classifier is not sure enough. Most probable: " + best + "."),
    ...(prediction.known || box ? []
      : [make("p", "If the sign is a small part of the photo, mark it.")]),
    make("table", "", make("tbody", "", ...rows)), buttons);
  remember(file, prediction);
}

function fail(card, message) {
  card.className = "bad";
  card.lastChild.replaceChildren(make("h2", "No prediction"), make("p", message));
}

async function work() {
  if (running === AT_ONCE || !waiting.length) return;
  running++;
  const [card, file, box] = waiting.shift();
  try {
    if (!file.size) throw Error("This file is empty.");
    if (file.size > LARGEST) throw Error("This photo is too large: more than 20 MB.");
    show(card, file, await (await ask("predict", file, box)).json(), box);
  } catch (error) {
    fail(card, error.message);
    if (error instanceof NeedsKey) {
      card.classList.add("locked");
      card.retry = () => { card.className = ""; done--; waiting.push([card, file, box]); work(); };
    }
  }
  running--;
  done++;
  tell();
  work();
}

function tell() {
  byId("progress").textContent = done + " of " + total + (total > 1 ? " photos" : " photo") + " done";
}

function take(files, box) {
  if (!files.length) return;
  if (!running && !waiting.length) done = total = 0;
  const cards = [...files].map(file => {
    const name = file.name || "photo";
    const shown = picture(URL.createObjectURL(file), "Your photo", box ? name + ", marked part" : name);
    shown.firstChild.onerror = () => shown.firstChild.remove();
    if (box) shown.firstChild.onload = () => cut(shown.firstChild, box);
    const card = make("li", "", make("div", "", shown), make("div", "", make("p", "Predicting …")));
    waiting.push([card, file, box]);
    return card;
  });
  total += cards.length;
  byId("cards").prepend(...cards);
  tell();
  for (let i = 0; i < AT_ONCE; i++) work();
}

function canvasOf(source, left, top, width, height, scale = 1) {
  const canvas = make("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(source, left, top, width, height, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function cut(image, [left, top, right, bottom]) {
  image.onload = null;
  image.src = canvasOf(image, left, top, right - left, bottom - top).toDataURL();
}

// Copy as curl

function curl(file, box) {
  const word = text => "'" + text.replaceAll("'", "'\\''") + "'";
  const address = new URL(withBox("predict", box), location.href).href;
  const key = sessionStorage.getItem("key") ? "-H 'Authorization: Bearer YOUR_KEY' " : "";
  return "curl " + key + "--data-binary " + word("@" + (file.name || "photo.png")) + " " + word(address);
}

async function copy(button, text) {
  const shown = button.parentElement.querySelector("code") || make("code");
  shown.textContent = text;
  button.parentElement.append(shown);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without HTTPS a browser does not give the clipboard. The text stands there to be selected.
    getSelection().selectAllChildren(shown);
  }
}

// Mark the sign on a larger photo

let marked = null, frame = null, start = null;

function draw() {
  const image = byId("street"), [left, top, right, bottom] = frame;
  const across = 100 / image.naturalWidth, down = 100 / image.naturalHeight;
  Object.assign(byId("frame").style, {
    left: left * across + "%", top: top * down + "%",
    width: (right - left) * across + "%", height: (bottom - top) * down + "%",
  });
  byId("where").textContent = "From " + frame.slice(0, 2).join(", ") + " to " + frame.slice(2).join(", ")
    + " of " + image.naturalWidth + " × " + image.naturalHeight + " pixels";
}

function mark(file) {
  const image = byId("street");
  marked = file;
  image.onload = () => {
    const { naturalWidth: width, naturalHeight: height } = image;
    frame = [width / 4, height / 4, width * 3 / 4, height * 3 / 4].map(Math.round);
    byId("marker").showModal();
    byId("canvas").focus();
    draw();
  };
  image.src = URL.createObjectURL(file);
}

function placeOf(event) {
  const image = byId("street"), shown = image.getBoundingClientRect();
  const within = (value, most) => Math.round(Math.min(Math.max(value, 0), 1) * most);
  return [within((event.clientX - shown.left) / shown.width, image.naturalWidth),
    within((event.clientY - shown.top) / shown.height, image.naturalHeight)];
}

byId("canvas").onpointerdown = event => {
  start = placeOf(event);
  byId("canvas").setPointerCapture(event.pointerId);
};
byId("canvas").onpointermove = event => {
  if (!start) return;
  const [x, y] = placeOf(event);
  const drawn = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
  if (drawn[2] - drawn[0] < SMALLEST || drawn[3] - drawn[1] < SMALLEST) return;
  frame = drawn;
  draw();
};
byId("canvas").onpointerup = byId("canvas").onpointercancel = () => { start = null; };
byId("canvas").onkeydown = event => {
  const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [];
  if (event.key === "Enter") readPart();
  if (right === undefined) return;
  event.preventDefault();
  const { naturalWidth: width, naturalHeight: height } = byId("street");
  const step = Math.max(1, Math.round(Math.max(width, height) / STEPS));
  let [x1, y1, x2, y2] = frame;
  if (event.shiftKey) {
    x2 = Math.min(Math.max(x2 + right * step, x1 + SMALLEST), width);
    y2 = Math.min(Math.max(y2 + down * step, y1 + SMALLEST), height);
  } else {
    const across = Math.min(Math.max(right * step, -x1), width - x2);
    const along = Math.min(Math.max(down * step, -y1), height - y2);
    [x1, x2, y1, y2] = [x1 + across, x2 + across, y1 + along, y2 + along];
  }
  frame = [x1, y1, x2, y2];
  draw();
};
function readPart() {
  byId("marker").close();
  take([marked], frame);
}
byId("read").onclick = readPart;
byId("cancel").onclick = () => byId("marker").close();

// Photos from files, the clipboard and by dropping them

byId("pick").onclick = () => byId("files").click();
byId("files").onchange = event => { take(event.target.files); event.target.value = ""; };
// The whole page accepts a dropped file. Otherwise the browser would open a file dropped beside the frame.
document.ondragover = event => { event.preventDefault(); byId("drop").classList.add("over"); };
document.ondragleave = () => byId("drop").classList.remove("over");
document.ondrop = event => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  take(event.dataTransfer.files);
};
document.onpaste = event => take(event.clipboardData.files);

// The camera

let stream = null, isLive = false;

function closeCamera() {
  if (stream) stream.getTracks().forEach(track => track.stop());
  stream = null;
  setLive(false);
  byId("viewer").hidden = true;
  byId("camera").focus();
}

function setLive(on) {
  isLive = on;
  byId("live").setAttribute("aria-pressed", on);
  byId("live").textContent = on ? "Stop reading" : "Read live";
  byId("guide").hidden = !on;
  byId("seen").textContent = on ? "Hold the sign into the square." : "";
}

const jpeg = canvas => new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", 0.95));

async function readLive() {
  const video = byId("video"), width = video.videoWidth, height = video.videoHeight;
  const side = Math.min(width, height) * GUIDE;
  Object.assign(byId("guide").style, {
    left: 50 - 50 * side / width + "%", top: 50 - 50 * side / height + "%",
    width: 100 * side / width + "%", height: 100 * side / height + "%",
  });
  // The next picture is sent when the reply to the last is here, so a slow service is not overrun.
  while (isLive) {
    const square = canvasOf(video, (width - side) / 2, (height - side) / 2, side, side);
    try {
      const prediction = await (await ask("predict", await jpeg(square))).json();
      if (!isLive) return;
      byId("seen").textContent = prediction.known
        ? prediction.name + ", " + percent(prediction.confidence) : "No sign that is known";
    } catch (error) {
      setLive(false);
      byId("seen").textContent = error.message;
    }
    await new Promise(resolve => setTimeout(resolve, 150));
  }
}

if (navigator.mediaDevices && navigator.mediaDevices.getUserMedia) {
  byId("camera").hidden = false;
  byId("camera").onclick = async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      byId("video").srcObject = stream;
      byId("viewer").hidden = false;
      byId("shoot").focus();
    } catch {
      byId("progress").textContent = "The camera cannot be used: the browser does not allow it, or there is none.";
    }
  };
  byId("shoot").onclick = async () => {
    const video = byId("video");
    const photo = await jpeg(canvasOf(video, 0, 0, video.videoWidth, video.videoHeight));
    take([new File([photo], "camera.jpg")]);
  };
  byId("live").onclick = () => {
    setLive(!isLive);
    if (isLive) readLive();
  };
  byId("close").onclick = closeCamera;
}

// The history of this session

const recall = () => JSON.parse(sessionStorage.getItem("history") || "[]");

function remember(file, prediction) {
  const entry = {
    time: new Date().toLocaleTimeString(), photo: file.name || "photo",
    prediction: prediction.known ? prediction.name : "unknown", confidence: prediction.confidence,
  };
  sessionStorage.setItem("history", JSON.stringify([entry, ...recall()].slice(0, REMEMBERED)));
  list();
}

function list() {
  const entries = recall();
  byId("history").hidden = !entries.length;
  byId("entries").replaceChildren(...entries.map(entry => make("tr", "", make("td", entry.time),
    make("td", entry.photo), make("td", entry.prediction), make("td", percent(entry.confidence)))));
}

byId("save").onclick = () => {
  const cell = value => '"' + String(value).replaceAll('"', '""') + '"';
  const rows = [["time", "photo", "prediction", "confidence"], ...recall().map(Object.values)];
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([rows.map(row => row.map(cell).join(",") + "\n").join("")]));
  link.download = "predictions.csv";
  link.click();
};
byId("forget").onclick = () => { sessionStorage.removeItem("history"); list(); };

list();
describe();
