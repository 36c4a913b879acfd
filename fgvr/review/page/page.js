// The review page. Every text of the run is put in by textContent: names and paths are strangers' words.

const at = (id) => document.getElementById(id);
const state = { view: "names", name: null, start: 0, total: 0, page: 60, photos: [], position: 0, version: -1, turn: 0, marked: new Set() };

function made(tag, text = "", facts = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(facts)) {
    if (name === "click") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  return element;
}

function say(text, bad = false) {
  at("live").textContent = text;
  at("live").classList.toggle("bad", bad);
}

async function call(path, body) {
  const write = body !== undefined && { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-FGVR-Review": "1" } };
  let reply;
  try {
    reply = await fetch(path, write || {});
  } catch {
    throw new Error("The review command does not answer: is it still running? Nothing was saved.");
  }
  const text = await reply.text();
  if (reply.ok) return JSON.parse(text);
  let said = text;
  try { said = JSON.parse(text).error; } catch { /* a plain sentence */ }
  throw new Error(said);
}

const guarded = (work) => async (...given) => {
  try { await work(...given); } catch (error) { say(error.message, true); }
};

const picture = (id, side, alt) => {
  const image = made("img", "", { src: `/thumb/${id}?side=${side}`, alt, loading: "lazy" });
  image.addEventListener("error", () => { image.alt = "cannot be read"; });
  return image;
};

// What is shown

async function show(view, name = null, start = 0) {
  if (view !== state.view || name !== state.name) state.marked.clear();
  Object.assign(state, { view, name, start, position: 0 });
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-current", String(button.dataset.view === view));
  at("names").hidden = view !== "names";
  at("photos").hidden = view === "names" || view === "map";
  at("audit").hidden = view !== "audit" && view !== "differ";
  at("map").hidden = view !== "map";
  await refill(0);
}

// Without a position the photo that is open stays open, whichever that is when the answer comes.
const refill = (position) => (state.view === "names" ? showNames() : state.view === "map" ? showMap() : showPhotos(position));

async function showNames() {
  const query = new URLSearchParams({ search: at("search").value, sort: at("sort").value, start: state.start });
  const found = await call(`/api/names?${query}`);
  Object.assign(state, { total: found.total, page: found.page });
  at("name-rows").replaceChildren(...found.names.map(nameRow));
  at("names-where").textContent = where(found.names.length);
  await showDoubles();
}

async function showDoubles() {
  if (!at("doubles").open) return;
  const pairs = await call("/api/doubles");
  at("double-rows").replaceChildren(...pairs.map(([first, second]) => {
    const line = made("li", `${first.name} (${first.count.toLocaleString("en")}), ${second.name} (${second.count.toLocaleString("en")}) `);
    const strip = made("span", "", { class: "strip" });
    strip.append(...first.examples.slice(0, 2).map((id) => picture(id, 128, "")), ...second.examples.slice(0, 2).map((id) => picture(id, 128, "")));
    const merge = guarded(async () => { say(`Saved: ${(await call("/api/decide", { kind: "merge", before: second.name, after: first.name, queue: "doubles" })).said}`); await fresh(); });
    line.append(strip, made("button", `Merge into ${first.name}`, { type: "button", click: merge }));
    return line;
  }));
  if (!pairs.length) at("double-rows").replaceChildren(made("li", "None: no two names are written alike."));
}

// Nine colours that people with any colour vision tell apart (Okabe and Ito), the last for all others.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#7a4fa3", "#8a8f95"];
const SVG = "http://www.w3.org/2000/svg";

async function showMap() {
  if (!state.map || state.map.version !== state.version) {
    at("map-said").textContent = "The map is being drawn: the first time takes from seconds to a minute.";
    state.map = { ...(await call("/api/map")), version: state.version };
  }
  const { points, ids, names, suspicion, decisions, of } = state.map;
  const by = at("colour").value;
  const values = by === "names" ? names.map((name) => name || "(no name)") : by === "decisions" ? decisions.map((kind) => (kind ? words[kind] : "not decided")) : suspicion.map((value) => (value === null ? "not judged" : value >= 0.9 ? "most suspicious tenth" : value >= 0.5 ? "rather suspicious" : "less suspicious"));
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const listed = [...counts].sort((one, other) => other[1] - one[1]).slice(0, COLOURS.length - 1).map(([value]) => value);
  const colour = (value) => COLOURS[listed.includes(value) ? listed.indexOf(value) : COLOURS.length - 1];
  at("points").replaceChildren(...points.map(([x, y], place) => {
    const dot = document.createElementNS(SVG, "circle");
    for (const [fact, value] of Object.entries({ cx: x, cy: y, r: 0.006, fill: colour(values[place]) })) dot.setAttribute(fact, value);
    const title = document.createElementNS(SVG, "title");
    title.textContent = `${names[place] || "(no name)"}${decisions[place] ? `, decided: ${words[decisions[place]]}` : ""}`;
    dot.append(title);
    dot.addEventListener("click", guarded(() => show("alike", ids[place])));
    return dot;
  }));
  const rest = values.filter((value) => !listed.includes(value)).length;
  const lines = listed.map((value) => [colour(value), `${value} (${counts.get(value).toLocaleString("en")})`]);
  if (rest) lines.push([COLOURS.at(-1), `others (${rest.toLocaleString("en")})`]);
  at("legend").replaceChildren(...lines.map(([fill, text]) => {
    const line = made("li");
    const key = document.createElementNS(SVG, "svg");
    key.setAttribute("viewBox", "0 0 10 10");
    const dot = document.createElementNS(SVG, "circle");
    for (const [fact, value] of Object.entries({ cx: 5, cy: 5, r: 5, fill })) dot.setAttribute(fact, value);
    key.append(dot);
    line.append(key, made("span", text));
    return line;
  }));
  at("map-said").textContent = `${ids.length.toLocaleString("en")} of ${of.toLocaleString("en")} photos; photos of an audit are left out. Click a point to see it among those like it.`;
}

function nameRow(row) {
  const line = made("tr");
  const cell = made("td");
  cell.append(made("button", row.name, { type: "button", class: "name", click: guarded(() => show("name", row.name)) }));
  if (row.was.length) cell.append(made("span", `in the run: ${row.was.join(", ")}`, { class: "was" }));
  const strip = made("div", "", { class: "strip" });
  strip.append(...row.examples.map((id) => picture(id, 128, "")));
  const examples = made("td");
  examples.append(strip);
  const change = made("td");
  const said = (text, kind, title) => made("button", text, { type: "button", "aria-label": `${text} ${row.name}`, click: guarded(() => changeName(kind, row.name, title)) });
  change.append(said("Rename…", "rename", "New name for"), said("Merge into…", "merge", "The same as"), said("Not a name", "not_a_name"));
  line.append(cell, made("td", row.count.toLocaleString("en"), { class: "number" }), made("td", row.score.toFixed(2), { class: "number" }), examples, change);
  return line;
}

const where = (shown) => (state.total ? `${(state.start + 1).toLocaleString("en")}–${(state.start + shown).toLocaleString("en")} of ${state.total.toLocaleString("en")}` : "none");

async function showPhotos(position) {
  const turn = ++state.turn;
  const asked = { name: { name: state.name }, alike: { photo: state.name }, text: { text: state.name }, differ: state.pair }[state.view] ?? { queue: state.view };
  const found = await call(`/api/photos?${new URLSearchParams({ ...asked, start: state.start })}`);
  if (turn !== state.turn) return; // something else was asked for meanwhile
  Object.assign(state, { photos: found.photos, total: found.total, page: found.page });
  const titles = { likely_wrong: "Most likely wrong first", most_useful: "Most useful first: not sure, and of names with many photos", undecided: "Waiting for you under a promised precision, the surest first", audit: "The audit's sample, in random order" };
  const searched = found.looked === undefined || found.looked >= found.of ? "" : ` (among ${found.looked.toLocaleString("en")} of ${found.of.toLocaleString("en")})`;
  at("photos-title").textContent = { name: state.name, alike: `Photos like number ${state.name}${searched}`, text: `Photos of: ${state.name}${searched}`, differ: "Photos on which the two methods differ: which name is right?" }[state.view] ?? titles[state.view];
  at("photos-where").textContent = where(found.photos.length);
  at("empty").hidden = found.photos.length > 0;
  at("empty").textContent = state.view === "audit" ? "No sample is drawn yet." : "There is no photo here.";
  at("desk").hidden = found.photos.length === 0;
  at("splitting").hidden = state.view !== "name";
  if (state.view === "audit" || state.view === "differ") await showAudit();
  at("strip").replaceChildren(...found.photos.map((photo, place) => {
    const button = made("button", "", { type: "button", "aria-label": `Photo ${place + 1}`, click: () => open(place) });
    button.append(picture(photo.image_id, 128, ""));
    return button;
  }));
  if (found.photos.length) open(Math.min(position ?? state.position, found.photos.length - 1));
}

const words = { right: "right", wrong: "wrong", name: "another name", cannot_tell: "cannot tell" };

function open(position) {
  state.position = position;
  const photo = state.photos[position];
  at("photo").src = `/thumb/${photo.image_id}?side=640`;
  at("photo").alt = `Photo ${position + 1}, called ${photo.name || "nothing"}`;
  at("place").textContent = photo.uri;
  at("name").textContent = (photo.choices ? "Which of these?" : photo.name || "(no name)") + (photo.score === null ? "" : `  ${photo.score.toFixed(2)}`);
  const decided = photo.decision;
  at("decision").textContent = decided ? `decided: ${words[decided.kind]}${decided.kind === "name" ? ` (${decided.name ?? "no name"})` : ""}, by ${decided.who}` : "";
  const lines = Object.entries(photo.said);
  if (photo.candidates.length) lines.push(["candidates", photo.candidates.map(([name, weight]) => `${name} ${weight.toFixed(2)}`).join(", ")]);
  if (photo.why) lines.push(["why listed", photo.why]);
  at("said").replaceChildren(...lines.flatMap(([who, what]) => [made("dt", who), made("dd", what)]));
  at("nearest").replaceChildren(...photo.neighbours.map((id) => picture(id, 128, "a near photo")));
  at("nearest-title").hidden = !photo.neighbours.length;
  at("choices").replaceChildren(...(photo.choices ?? []).map((name, number) => {
    const button = made("button", "", { type: "button", click: guarded(() => decide("name", name)) });
    button.append(made("kbd", String(number + 1)), ` ${name}`);
    return button;
  }));
  for (const kind of ["right", "wrong"]) document.querySelector(`[data-kind="${kind}"]`).hidden = Boolean(photo.choices);
  at("other-name").value = "";
  at("marked").textContent = state.marked.size ? `${state.marked.size} marked` : "";
  [...at("strip").children].forEach((button, place) => {
    button.setAttribute("aria-current", String(place === position));
    button.classList.toggle("decided", Boolean(state.photos[place].decision));
    button.classList.toggle("marked", state.marked.has(state.photos[place].image_id));
  });
}

async function step(by) {
  const next = state.position + by;
  if (next >= 0 && next < state.photos.length) return open(next);
  const start = state.start + by * state.page;
  if (next < 0 ? state.start > 0 : start < state.total) {
    state.start = Math.max(0, start);
    return showPhotos(by < 0 ? state.page - 1 : 0);
  }
  return say(by < 0 ? "This is the first photo." : "This is the last photo.");
}

async function turn(by) {
  const start = state.start + by * state.page;
  if (start >= 0 && start < state.total) await show(state.view, state.name, start);
}

const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}%`);
const share = (found) => `${percent(found.share)} right, between ${percent(found.low)} and ${percent(found.high)} (95%), from ${found.decided} photos`;

function compared(found) {
  const decided = found.first_right + found.second_right + found.neither;
  const words = !decided ? "nothing is decided yet" : `${found.first} is right on ${found.first_right}, ${found.second} on ${found.second_right}, neither on ${found.neither}; ${found.p < 0.05 ? `${found.first_right > found.second_right ? found.first : found.second} is better` : "no difference is shown"} (p = ${found.p.toFixed(3)})`;
  const line = made("li", `${found.first} and ${found.second} differ on ${found.differ.toLocaleString("en")} photos, ${found.drawn} drawn: ${words}. `);
  line.append(made("button", "Decide", { type: "button", "aria-label": `Decide ${found.first} against ${found.second}`, click: guarded(async () => { state.pair = { first: found.first, second: found.second }; await show("differ", `${found.first} ${found.second}`); }) }));
  return line;
}

async function showComparisons() {
  const { methods, begun } = await call("/api/comparisons");
  for (const [place, id] of ["first", "second"].entries()) {
    if (at(id).options.length !== methods.length) at(id).replaceChildren(...methods.map((name, number) => made("option", name, number === place ? { value: name, selected: "" } : { value: name })));
  }
  at("compared").replaceChildren(...begun.map(compared));
}

async function showAudit() {
  await showComparisons();
  const found = await call("/api/audit");
  const said = at("audit-said");
  if (!found.drawn) {
    const draw = Object.entries(found.needed).map(([width, photos]) => made("button", `± ${100 * width} points: ${photos} photos`, { type: "button", click: guarded(async () => { await call("/api/audit", { half_width: Number(width) }); await showPhotos(); }) }));
    const row = made("p", "", { class: "row" });
    row.append(...draw);
    said.replaceChildren(made("p", "How exactly do you want to know the share of right names? The sample is drawn once, stored, and never trained on."), row);
    return;
  }
  const parts = [made("p", found.whole.decided ? share(found.whole) : `Nothing is decided yet of ${found.drawn} drawn photos.`)];
  if (found.cannot_tell) parts.push(made("p", `${found.cannot_tell} could not be told: with them all wrong or all right, ${percent(found.worst)} to ${percent(found.best)}.`));
  const rows = Object.entries(found.by_name);
  if (rows.length) {
    const details = made("details");
    details.append(made("summary", "By name and by confidence"), ...found.by_score.map(([low, high, s]) => made("p", `confidence ${low.toFixed(2)} to ${high.toFixed(2)}: ${share(s)}`)), ...rows.map(([name, s]) => made("p", `${name}: ${share(s)}`)));
    parts.push(details);
  }
  said.replaceChildren(...parts);
}

// What is decided

async function decide(kind, after = "") {
  const photo = state.photos[state.position];
  if (!photo || at("photos").hidden) return;
  const queue = ["name", "text"].includes(state.view) ? `${state.view}: ${state.name}`.slice(0, 500) : state.view;
  const reply = await call("/api/decide", { kind, image_id: photo.image_id, before: photo.name, after, queue });
  say(`Saved: ${reply.said}`);
  const position = state.position;
  await fresh();
  await step(state.position === position ? 1 : 0);
}

async function changeName(kind, before, title) {
  const after = title ? await ask(`${title} ${before}`, kind === "rename" ? before : "") : "";
  if (after === null) return;
  const reply = await call("/api/decide", { kind, before, after, queue: "names" });
  say(`Saved: ${reply.said}`);
  await fresh();
}

async function split() {
  if (!state.marked.size || state.view !== "name") return say("Open a name and mark photos first.", true);
  const after = await ask(`Name of the ${state.marked.size} marked photos`, "");
  if (after === null) return undefined;
  const reply = await call("/api/decide", { kind: "split", before: state.name, after, image_ids: [...state.marked], queue: "split" });
  state.marked.clear();
  say(`Saved: ${reply.said}`);
  return fresh();
}

async function half() {
  const ids = await call(`/api/half?${new URLSearchParams({ name: state.name })}`);
  state.marked = new Set(ids);
  say(ids.length ? `${ids.length} photos are marked: the smaller of two groups that look alike. Look at them, then split them off.` : "Too few photos with vectors to part.");
  open(state.position);
}

function alike() {
  const photo = state.photos[state.position];
  if (photo && !at("photos").hidden && !["audit", "differ"].includes(state.view)) return show("alike", photo.image_id);
  return undefined;
}

async function undo() {
  const reply = await call("/api/undo", {});
  say(`Saved: ${reply.said}`);
  await fresh();
}

function ask(title, value) {
  at("ask-title").textContent = title;
  at("ask-name").value = value;
  const dialog = at("ask");
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "ok" ? at("ask-name").value.trim() : null), { once: true }));
}

// Other people's decisions

async function fresh() {
  const run = await call("/api/run");
  at("title").textContent = run.title;
  at("facts").textContent = `${run.photos.toLocaleString("en")} photos named in ${run.table}; ${run.decided.toLocaleString("en")} decided; you are ${run.who}${run.damaged ? `; ${run.damaged} damaged lines in the log were kept aside` : ""}`;
  if (run.version === state.version) return;
  state.version = run.version;
  await refill();
}

async function like(event) {
  const text = event.target.value;
  const names = text ? await call(`/api/like?${new URLSearchParams({ text })}`) : [];
  at("like").replaceChildren(...names.map((name) => made("option", "", { value: name })));
}

// Keys and buttons

const keys = {
  r: () => !chosen() && decide("right"), w: () => !chosen() && decide("wrong"), c: () => decide("cannot_tell"),
  n: () => !at("photos").hidden && step(1), p: () => !at("photos").hidden && step(-1), u: undo,
  o: () => !at("photos").hidden && at("other-name").focus(), m: mark, l: alike, 1: () => choose(0), 2: () => choose(1), f: () => at("find-text").focus(), "/": () => !at("names").hidden && at("search").focus(),
};
keys.ArrowRight = keys.n;
keys.ArrowLeft = keys.p;

function chosen() {
  return state.view === "differ" && state.photos[state.position]?.choices;
}

function choose(number) {
  const name = chosen()?.[number];
  return name ? decide("name", name) : undefined;
}

function mark() {
  const photo = state.photos[state.position];
  if (!photo || state.view !== "name") return;
  if (!state.marked.delete(photo.image_id)) state.marked.add(photo.image_id);
  open(state.position);
}

let working = Promise.resolve(); // one key after the other: the second of two quick ones is about the next photo
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.matches("input")) event.target.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select") || at("ask").open) return;
  const work = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!work) return;
  event.preventDefault();
  working = working.then(guarded(work));
});
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", guarded(() => show(button.dataset.view)));
for (const button of document.querySelectorAll("[data-kind]")) button.addEventListener("click", guarded(() => decide(button.dataset.kind)));
for (const button of document.querySelectorAll("[data-page]")) button.addEventListener("click", guarded(() => turn(Number(button.dataset.page))));
for (const [id, work] of [["next", () => step(1)], ["previous", () => step(-1)], ["undo", undo], ["mark", mark], ["split", split], ["half", half], ["alike", alike]]) at(id).addEventListener("click", guarded(async () => work()));
at("other").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("other-name").value.trim();
  at("other-name").blur();
  if (name) guarded(decide)("name", name);
});
at("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("find-text").value.trim();
  at("find-text").blur();
  if (text) guarded(show)("text", text);
});
at("compare").addEventListener("click", guarded(async () => {
  const pair = { first: at("first").value, second: at("second").value };
  await call("/api/comparisons", pair);
  await showComparisons();
}));
at("colour").addEventListener("change", guarded(showMap));
at("doubles").addEventListener("toggle", guarded(showDoubles));
at("ask-cancel").addEventListener("click", () => at("ask").close("cancel"));
for (const id of ["other-name", "ask-name"]) at(id).addEventListener("input", guarded(like));
at("search").addEventListener("input", guarded(() => show("names")));
at("sort").addEventListener("change", guarded(() => show("names")));
setInterval(() => { if (!document.hidden && !at("ask").open) fresh().catch(() => say("The review command does not answer: is it still running?", true)); }, 2000);
at("photo").addEventListener("error", () => { at("photo").alt = "This photo cannot be read."; });
guarded(async () => { await fresh(); await show("names"); })();
