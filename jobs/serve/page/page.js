// The page of the service: two pictures (or frames of two cameras) go to /fuse, one after another.
// Everything is text or an image element: nothing that comes from a file or the network becomes HTML.

const CAMERAS = ["vi", "ir"];
const NAMES = { vi: "visible", ir: "infrared" };
const EXAMPLES = [
  ["night", "low light, stripes"],
  ["haze", "haze, low contrast"],
  ["rain", "rain, noise"],
  ["glare", "over-exposure, low contrast"],
];
// Words in file names by which dropped files are told apart.
const OF_INFRARED = /(^|[^a-z])(ir|inf|infrared|thermal|lwir)([^a-z]|$)/i;

const byId = (id) => document.getElementById(id);
const chosen = { vi: [], ir: [] };
let frames = [];
let shown = 0;
let underWay = null;

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("error").textContent = text;
}

function card(camera) {
  return document.querySelector(`.source[data-camera="${camera}"]`);
}

/** Show an image of a file, or say in words that a browser cannot (TIFF). */
function preview(image, note, file, url) {
  const several = file.several > 1 ? `${file.several} frames, the first is ` : "";
  image.onload = () => {
    image.hidden = false;
    note.textContent = `${several}${file.name}, ${image.naturalWidth} × ${image.naturalHeight}`;
  };
  image.onerror = () => {
    image.hidden = true;
    note.textContent = `${several}${file.name}; browsers do not show this kind, it is sent all the same`;
  };
  image.src = url;
}

function choose(camera, files) {
  const found = [...files].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  for (const { url } of chosen[camera]) URL.revokeObjectURL(url);
  chosen[camera] = found.map((file) => ({ file, url: URL.createObjectURL(file) }));
  complain("");
  if (!found.length) return;
  const place = card(camera);
  const image = place.querySelector("img");
  image.alt = `${NAMES[camera]} picture, chosen`;
  const first = { name: found[0].name, several: found.length };
  preview(image, place.querySelector(".note"), first, chosen[camera][0].url);
}

/** Dropped beside the two fields: told apart by their names, else visible first. */
function chooseByName(files) {
  const infrared = files.filter((file) => OF_INFRARED.test(file.name));
  const visible = files.filter((file) => !infrared.includes(file));
  if (files.length === 2 && infrared.length !== 1) {
    choose("vi", [files[0]]);
    choose("ir", [files[1]]);
    return;
  }
  if (visible.length) choose("vi", visible);
  if (infrared.length) choose("ir", infrared);
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

/** The pairs to fuse: one of each, or those of equal names. Throws a sentence for a person. */
function pairs() {
  for (const camera of CAMERAS) {
    if (!chosen[camera].length) throw new Error(`Choose a picture of the ${NAMES[camera]} camera first.`);
  }
  const { vi, ir } = chosen;
  if (vi.length === 1 && ir.length === 1) return [{ name: stem(vi[0].file.name), vi: vi[0], ir: ir[0] }];
  const partner = new Map(ir.map((one) => [stem(one.file.name), one]));
  const found = vi
    .filter((one) => partner.has(stem(one.file.name)))
    .map((one) => ({ name: stem(one.file.name), vi: one, ir: partner.get(stem(one.file.name)) }));
  if (!found.length) throw new Error("No two of these files have one name; frames are paired by name.");
  const left = vi.length + ir.length - 2 * found.length;
  if (left) complain(`${left} of the files have no partner of their name and are left out.`);
  return found;
}

async function send(pair, signal) {
  const form = new FormData();
  for (const camera of CAMERAS) form.append(camera, pair[camera].file);
  form.append("ir_window", byId("ir_window").value.trim());
  for (const line of byId("degradation").value.split("\n")) {
    if (line.trim()) form.append("degradation", line.trim());
  }
  const headers = { Accept: byId("accept").value, ...authorization() };
  let response;
  try {
    response = await fetch("/fuse", { method: "POST", body: form, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer; is it running, and is the network up?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function authorization() {
  const token = byId("token").value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function refusal(response) {
  if (response.status === 401) askForToken();
  let detail = `The service answered with status ${response.status}.`;
  try {
    detail = (await response.json()).detail;
  } catch {
    // A proxy's page; the status says enough.
  }
  const error = new Error(detail);
  error.retryAfter = response.status === 429 ? Number(response.headers.get("Retry-After")) : 0;
  return error;
}

function askForToken() {
  byId("secret").hidden = false;
  byId("token").focus();
}

/** A frame of a sequence waits where the queue is full; a single pair is refused in words. */
async function sendPatiently(pair, signal, isSequence) {
  for (;;) {
    try {
      return await send(pair, signal);
    } catch (error) {
      if (!isSequence || !error.retryAfter || signal.aborted) throw error;
      say(`The queue is full; trying again in ${error.retryAfter} s.`);
      await new Promise((resume) => setTimeout(resume, 1000 * error.retryAfter));
    }
  }
}

async function fuse() {
  complain("");
  let todo;
  try {
    todo = pairs();
  } catch (error) {
    complain(error.message);
    return;
  }
  underWay = new AbortController();
  byId("fuse").disabled = true;
  byId("stop").hidden = false;
  for (const frame of frames) URL.revokeObjectURL(frame.url);
  frames = [];
  byId("result").hidden = true;
  try {
    for (const pair of todo) {
      say(todo.length > 1 ? `Fusing ${frames.length + 1} of ${todo.length} …` : "Fusing …");
      const started = performance.now();
      const response = await sendPatiently(pair, underWay.signal, todo.length > 1);
      const picture = await response.blob();
      frames.push({ ...pair, ...factsOf(response, started), url: URL.createObjectURL(picture), type: picture.type });
      show(frames.length - 1);
    }
    say("Done.");
    byId("result-title").focus();
  } catch (error) {
    const done = frames.length ? ` ${frames.length} of ${todo.length} are fused.` : "";
    say("");
    complain(error.name === "AbortError" ? `Stopped.${done}` : `${error.message}${done}`);
  } finally {
    underWay = null;
    byId("fuse").disabled = false;
    byId("stop").hidden = true;
  }
}

function factsOf(response, started) {
  return {
    version: response.headers.get("X-Model"),
    fuseSeconds: Number(response.headers.get("X-Seconds")),
    seen: JSON.parse(response.headers.get("X-Sees") ?? "{}"),
    allSeconds: (performance.now() - started) / 1000,
  };
}

function show(index) {
  shown = index;
  const frame = frames[index];
  byId("result").hidden = false;
  byId("frames").hidden = frames.length < 2;
  byId("frame").textContent = `${frame.name}, ${index + 1} of ${frames.length}`;
  byId("previous").disabled = index === 0;
  byId("next").disabled = index === frames.length - 1;
  byId("over").src = byId("beside-fused").src = frame.url;
  for (const camera of CAMERAS) byId(`beside-${camera}`).src = frame[camera].url;
  compareWith(byId("against").value);
  byId("version").textContent = frame.version;
  byId("seconds").textContent =
    `${frame.fuseSeconds.toFixed(2)} s to fuse, ${frame.allSeconds.toFixed(2)} s with waiting and sending`;
  byId("seen").textContent = seenInWords(frame.seen);
  const suffix = frame.type === "image/jpeg" ? "jpg" : "png";
  byId("download").href = frame.url;
  byId("download").download = `${frame.name}_fused.${suffix}`;
}

function seenInWords(seen) {
  const parts = CAMERAS.filter((camera) => seen[camera]).map((camera) => {
    const [[type, share]] = Object.entries(seen[camera]);
    return `${NAMES[camera]} picture: ${type.replaceAll("_", " ")} (${Math.round(100 * share)} %)`;
  });
  return parts.join(", ") || "not known of this model";
}

function compareWith(camera) {
  byId("under").src = frames[shown][camera].url;
  byId("under").alt = `${NAMES[camera]} picture`;
}

function slide() {
  const share = `${byId("slider").value}%`;
  document.querySelector(".compare").style.setProperty("--share", share);
  byId("slider").setAttribute("aria-valuetext", `${share} fused`);
}

async function takeExample(name) {
  try {
    for (const camera of CAMERAS) {
      const response = await fetch(`/static/examples/${name}_${camera}.jpg`);
      const data = await response.blob();
      choose(camera, [new File([data], `${name}_${camera}.jpg`, { type: data.type })]);
    }
  } catch {
    complain("The example could not be loaded; is the service still running?");
    return;
  }
  await fuse();
}

function listExamples() {
  for (const [name, suffers] of EXAMPLES) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "example";
    for (const camera of CAMERAS) {
      const image = document.createElement("img");
      image.src = `/static/examples/${name}_${camera}.jpg`;
      image.alt = "";
      image.loading = "lazy";
      button.append(image);
    }
    const text = document.createElement("span");
    text.textContent = `${name}: ${suffers}`;
    button.append(text);
    button.addEventListener("click", () => underWay || takeExample(name));
    byId("examples").append(button);
  }
}

async function showModel() {
  const place = byId("model");
  try {
    const response = await fetch("/model", { headers: authorization() });
    if (!response.ok) throw await refusal(response);
    const facts = await response.json();
    const followed = facts.asked === facts.model ? "" : `, which is ${facts.asked} now`;
    place.textContent = `${facts.model}${followed}: ${facts.system}, on ${facts.device}`;
    byId("hints").hidden = facts.hints === "none";
  } catch (error) {
    place.textContent = error.message;
  }
}

function acceptDrops() {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    for (const camera of CAMERAS) card(camera).classList.toggle("over", card(camera).contains(event.target));
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    const target = CAMERAS.find((camera) => card(camera).contains(event.target));
    for (const camera of CAMERAS) card(camera).classList.remove("over");
    if (!files.length) complain("What was dropped is not a file.");
    else if (target && files.length === 1) choose(target, files);
    else chooseByName(files);
  });
}

for (const camera of CAMERAS) {
  byId(camera).addEventListener("change", (event) => choose(camera, event.target.files));
}
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  fuse();
});
byId("stop").addEventListener("click", () => underWay?.abort());
byId("slider").addEventListener("input", slide);
byId("against").addEventListener("change", (event) => compareWith(event.target.value));
byId("previous").addEventListener("click", () => show(shown - 1));
byId("next").addEventListener("click", () => show(shown + 1));
byId("token").addEventListener("change", showModel);
acceptDrops();
listExamples();
slide();
showModel();
