// The page. It reads and writes rooms and their conversations through the server's JSON
// interface, and follows the state of the cache through server-sent events.
import { texts } from "/page/texts.js";

const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const el = Object.assign(document.createElement(tag), props);
  el.append(...children);
  return el;
};

const stored = (name, fallback) => localStorage.getItem(name) ?? fallback;
const state = {
  language: stored("language", navigator.language.startsWith("ko") ? "ko" : "en"),
  user: new URLSearchParams(location.search).get("user") ?? stored("user", "guest"),
  rooms: [],
  room: null, // the one that is shown
  messages: null, // the room's, or null until its history has come
  loading: false, // whether its history is being loaded
  newest: null, // id of the last message that is shown, 0 in an empty room
  told: null, // id of the last message for which the server's event had the history loaded
  reply: null, // {text, room}: the reply that this page has asked for
  about: null,
  cache: null, // the last cache event
  heard: false, // whether the server has sent its last reads, which come before the first cache event
  samples: [], // {at, hits, misses} of the last minute and a half
  reads: [],
  limits: new Map(), // each key's longest time to live so far, which its bar is measured by
};
const t = () => texts[state.language];

// The server's interface.

class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

async function call(method, path, body, headers = {}) {
  const options = { method, headers };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json", ...headers };
  }
  const response = await fetch(path, options);
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.message ?? response.statusText);
  return answer.data;
}

const chats = "/api/v1/chats";
const inRoom = (rest = "", room = state.room) => `${chats}/${encodeURIComponent(room.chat_id)}${rest}`;

// events yields the server-sent events of a response as [name, data].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
      if (name) yield [name, JSON.parse(data)];
    }
  }
}

function notice(text) {
  $("notice").textContent = text ?? "";
  $("notice").hidden = !text;
}

async function trying(work) {
  try {
    return await work();
  } catch (err) {
    notice(t().failed(err.message));
  }
}

// Rooms.

async function loadRooms() {
  state.rooms = await call("GET", `${chats}?user_id=${encodeURIComponent(state.user)}`);
  const wanted = location.hash.slice(1) || state.room?.chat_id;
  const room = state.rooms.find((r) => r.chat_id === wanted) ?? null;
  if (room?.chat_id !== state.room?.chat_id) await open(room, false);
  drawRooms();
}

function drawRooms() {
  $("rooms").replaceChildren(...state.rooms.map((room) => {
    const button = make("button", { textContent: room.title, title: room.title, onclick: () => trying(() => open(room)) });
    if (room.chat_id === state.room?.chat_id) button.setAttribute("aria-current", "true");
    return make("li", {}, button);
  }));
  $("no-rooms").hidden = state.rooms.length > 0;
}

async function open(room, show = true) {
  state.room = room;
  state.messages = state.newest = state.told = null;
  state.loading = false;
  history.replaceState(null, "", room ? `#${room.chat_id}` : location.pathname + location.search);
  notice();
  if (show) view("chat");
  drawRooms();
  drawRoom();
  listen();
  if (room) await loadMessages();
}

$("new-room").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(async () => {
    const room = await call("POST", chats, { user_id: state.user, title: $("title").value.trim() || t().untitled });
    $("title").value = "";
    state.rooms.unshift(room);
    await open(room);
    $("text").focus();
  });
});

$("delete").addEventListener("click", () => trying(async () => {
  if (!confirm(t().sureDelete(state.room.title))) return;
  await call("DELETE", inRoom());
  await open(null);
  await loadRooms();
}));

$("reload").addEventListener("click", () => trying(loadMessages));

// Messages.

async function loadMessages() {
  const room = state.room;
  state.loading = true;
  drawMessages();
  try {
    const messages = await call("GET", inRoom("/messages"));
    if (room !== state.room) return;
    state.messages = messages;
    state.newest = messages.at(-1)?.message_id ?? 0;
  } catch (err) {
    if (err.code !== 404 || room !== state.room) throw err;
    await open(null); // another page has deleted the room
    await loadRooms();
  } finally {
    if (room === state.room) {
      state.loading = false;
      drawMessages();
    }
  }
}

function bubble(message, growing) {
  const el = make("article", { className: `message ${message.role}` },
    make("b", { textContent: t()[message.role] ?? message.role }), make("p", { textContent: message.content }));
  if (message.partial) el.append(make("small", { textContent: t().partial }));
  if (growing) {
    el.classList.add("growing");
    el.setAttribute("aria-busy", "true"); // a screen reader reads it when it is whole
  }
  return el;
}

// drawMessages keeps the elements that are there already, so that a screen reader reads
// only new ones. A room is called empty only when its history is known to be: while it
// loads, the style sheet shows that after a moment, so that a quick answer does not flicker.
function drawMessages() {
  const log = $("messages");
  const wanted = (state.messages ?? []).map((m) => [`${m.message_id} ${state.language}`, () => bubble(m)]);
  if (state.reply?.room === state.room && state.room) wanted.push(["reply", () => bubble({ role: "assistant", content: state.reply.text }, true)]);
  if (wanted.length === 0 && state.messages) wanted.push([`none ${state.language}`, () => make("p", { className: "empty", textContent: t().emptyRoom })]);
  if (wanted.length === 0 && state.loading) wanted.push([`loading ${state.language}`, () => make("p", { className: "empty loading", textContent: t().loadingRoom })]);
  let same = 0;
  while (same < wanted.length && log.children[same]?.dataset.key === wanted[same][0]) same++;
  while (log.children.length > same) log.lastElementChild.remove();
  for (const [key, draw] of wanted.slice(same)) {
    const el = draw();
    el.dataset.key = key;
    log.append(el);
  }
  if (same < wanted.length) log.scrollTop = log.scrollHeight;
}

function drawRoom() {
  const room = state.room;
  $("room").textContent = room?.title ?? t().chooseRoom;
  for (const id of ["delete", "reload"]) $(id).hidden = !room;
  $("composer").hidden = !room;
  drawReplying();
  drawMessages();
  drawKeys();
}

function drawReplying() {
  const mine = state.reply?.room === state.room && state.reply !== null;
  const elsewhere = !mine && !!state.room && state.cache?.chat?.chat_id === state.room.chat_id && state.cache.chat.generating;
  $("cancel").hidden = !mine && !elsewhere;
  $("send").disabled = !!state.reply || elsewhere;
  $("elsewhere").hidden = !elsewhere;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text && state.room && !$("send").disabled) trying(() => say(text));
});

$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("cancel").hidden && !$("ask").open) trying(cancel);
});

async function say(text) {
  notice();
  const reply = state.reply = { text: "", room: state.room };
  drawReplying();
  try {
    $("text").value = "";
    const said = await call("POST", inRoom("/messages", reply.room), { role: "user", content: text }).catch((err) => {
      $("text").value ||= text; // so that it can be sent again
      throw err;
    });
    if (reply.room === state.room) state.messages = [...(state.messages ?? []), said];
    drawMessages();
    await generate(reply);
  } finally {
    state.reply = null;
    if (state.cache?.chat) state.cache.chat.generating = false; // until the next event
    drawReplying();
    if (reply.room === state.room) await loadMessages();
  }
}

async function generate(reply) {
  const response = await fetch(inRoom("/generate", reply.room), { method: "POST" });
  if (response.status === 409) return notice(t().busyRoom);
  if (!response.ok) throw new Refused(response.status, (await response.json().catch(() => ({}))).message ?? response.statusText);
  let ended = false;
  try {
    for await (const [name, data] of events(response)) {
      if (name === "token") {
        reply.text += data.content;
        grow(reply);
      } else {
        ended = true;
        if (name === "cancelled") notice(ending(t().cancelled, data));
        if (name === "error") notice(ending(t().errors[data.kind] ?? data.message, data.saved));
      }
    }
  } catch { /* the connection was lost: the notice below says so */ }
  if (!ended) notice(t().errors.broken);
}

// ending says whether a reply that was cut left a message.
const ending = (text, saved) => (saved ? `${text} ${t().saved}` : text);

function grow(reply) {
  const text = $("messages").querySelector(".growing p");
  if (!text || reply.room !== state.room) return drawMessages();
  text.textContent = reply.text;
  const log = $("messages");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
}

async function cancel() {
  try {
    if ((await call("POST", inRoom("/cancel")))?.pending) notice(t().pending);
  } catch (err) {
    if (err.code !== 404) throw err;
    notice(t().notGenerating);
  }
}

$("cancel").addEventListener("click", () => trying(cancel));

// The server's events.

let source;
function listen() {
  source?.close();
  const room = state.room ? `?chat_id=${encodeURIComponent(state.room.chat_id)}` : "";
  source = new EventSource(`/api/v1/events${room}`);
  source.addEventListener("about", (event) => {
    state.about = JSON.parse(event.data);
    state.reads = [];
    state.heard = false;
    if (!$("lost").hidden) trying(loadRooms); // the server is reachable again
    $("lost").hidden = true;
    drawAbout();
    drawReads();
  });
  source.addEventListener("read", (event) => {
    state.reads = [JSON.parse(event.data), ...state.reads].slice(0, 20);
    drawReads();
  });
  source.addEventListener("cache", (event) => {
    state.cache = JSON.parse(event.data);
    sample();
    drawCache();
    if (!state.heard) {
      state.heard = true;
      drawReads();
    }
    drawReplying();
    const chat = state.cache.chat;
    if (chat && chat.chat_id === state.room?.chat_id && chat.newest !== state.newest && chat.newest !== state.told && !state.reply && !state.loading) {
      state.told = chat.newest;
      trying(loadMessages);
    }
  });
  source.onerror = () => {
    $("lost").hidden = false;
    // A browser reconnects by itself, except to a server that answered with an error.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

function sample() {
  const { hits, misses } = state.cache;
  const last = state.samples.at(-1);
  if (last && (hits < last.hits || misses < last.misses)) state.samples = []; // another server, or one that has restarted
  state.samples.push({ at: Date.now(), hits, misses });
  state.samples = state.samples.filter((s) => s.at > Date.now() - 95_000);
}

// ratioAt is the share of hits in the 30 seconds before a sample, or null.
function ratioAt(i) {
  const end = state.samples[i];
  const start = state.samples.find((s) => s.at >= end.at - 30_000) ?? end;
  const hits = end.hits - start.hits, reads = hits + end.misses - start.misses;
  return reads > 0 ? hits / reads : null;
}

function drawAbout() {
  if (state.about) $("about").textContent = t().about(state.about, state.about.model || t().builtIn);
}

function drawCache() {
  const c = state.cache;
  if (!c) return;
  const now = !c.enabled ? "off" : !c.available ? "away" : c.breaker === "open" ? "open" : "on";
  $("state").textContent = t().state[now];
  $("state").dataset.state = now;
  $("hint").textContent = t().stateHint[now] ?? "";
  $("hint").hidden = !(now in t().stateHint);
  $("backend").textContent = [t().backends[c.backend] ?? c.backend, c.version].filter(Boolean).join(" ");
  $("breaker").textContent = t().breakers[c.breaker] ?? c.breaker;
  $("queued").textContent = c.queued + (c.overflowed ? "+" : "");
  $("memory").textContent = c.used_memory || "–";
  $("counts").textContent = t().counts(c);
  drawChart();
  drawKeys();
}

function drawChart() {
  const now = Date.now(), points = [];
  let ratio = null;
  state.samples.forEach((s, i) => {
    ratio = ratioAt(i);
    if (ratio !== null && s.at > now - 60_000) points.push(`${(300 - (now - s.at) / 200).toFixed(1)},${(60 - 56 * ratio).toFixed(1)}`);
  });
  $("curve").setAttribute("points", points.join(" "));
  $("ratio").textContent = ratio === null ? t().noRatio : `${Math.round(ratio * 100)} %`;
}

function drawReads() {
  const title = (id) => (id && id === state.room?.chat_id ? state.room.title : t().otherRoom);
  $("reads").replaceChildren(...state.reads.map((read) => {
    const share = make("span", { className: "database" });
    share.style.transform = `scaleX(${Math.min(1, read.database_ms / Math.max(read.total_ms, 0.001))})`;
    const row = make("li", { title: new Date(read.at).toLocaleTimeString(state.language) },
      make("span", { className: `outcome ${read.outcome}`, textContent: read.outcome }),
      make("span", { textContent: title(read.chat_id) }),
      make("span", { className: "spent" }, share),
      make("span", { className: "time", textContent: `${read.total_ms.toFixed(2)} ms` }));
    row.setAttribute("aria-label", t().read(read, title(read.chat_id)));
    return row;
  }));
  $("no-reads").hidden = state.reads.length > 0 || !state.heard;
}

function drawKeys() {
  const chat = state.cache?.chat;
  const known = !!state.room && chat?.chat_id === state.room.chat_id;
  const keys = known ? chat.keys : [];
  $("keys").replaceChildren(...keys.map(({ key, ttl_ms: ttl }) => {
    const limit = Math.max(ttl, state.limits.get(key) ?? 0);
    state.limits.set(key, limit);
    const seconds = Math.ceil(ttl / 1000);
    const left = ttl === 0 ? t().forever : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    const bar = make("progress", { max: limit || 1, value: ttl || 1 });
    bar.setAttribute("aria-label", key);
    return make("li", {}, make("code", { textContent: key, title: key }), make("time", { textContent: left }), bar);
  }));
  $("no-keys").hidden = keys.length > 0 || !known || !state.cache.available;
}

const result = (text) => { $("result").textContent = text; };

async function clear(token) {
  try {
    const data = await call("POST", "/cache/clear", undefined, token ? { Authorization: `Bearer ${token}` } : {});
    result(data.enabled === false ? t().disabled : t().cleared);
  } catch (err) {
    if (err.code !== 401) return result(t().failed(err.message));
    $("token").value = "";
    $("ask").returnValue = ""; // Esc would leave that of the last time
    $("ask").showModal();
  }
}

$("clear").addEventListener("click", () => clear());
$("back").addEventListener("click", () => $("ask").close(""));
$("ask").addEventListener("close", () => { if ($("ask").returnValue) clear($("token").value); });
$("test").addEventListener("click", async () => {
  try {
    const data = await call("GET", "/cache/test");
    result(data.enabled ? t().tested(data) : t().disabled);
  } catch (err) {
    result(t().failed(err.message));
  }
});

// Language, name and, on a narrow screen, which part is shown.

function view(name) {
  document.body.dataset.view = name;
  for (const button of document.querySelectorAll(".views button")) button.setAttribute("aria-pressed", String(button.dataset.view === name));
}

for (const button of document.querySelectorAll(".views button")) button.addEventListener("click", () => view(button.dataset.view));

function speak() {
  document.documentElement.lang = state.language;
  $("language").value = state.language;
  for (const el of document.querySelectorAll("[data-text]")) el.textContent = t()[el.dataset.text];
  $("words").replaceChildren(...t().meanings.flatMap(([word, meaning]) => [make("dt", { textContent: word }), make("dd", { textContent: meaning })]));
  for (const el of document.querySelectorAll("[data-label]")) el.setAttribute("aria-label", t()[el.dataset.label]);
  for (const el of document.querySelectorAll("[data-placeholder]")) el.placeholder = t()[el.dataset.placeholder];
  drawAbout();
  drawRoom();
  drawCache();
  drawReads();
}

$("language").addEventListener("change", () => {
  state.language = $("language").value;
  localStorage.setItem("language", state.language);
  result("");
  notice();
  speak();
});

$("user").addEventListener("change", () => trying(async () => {
  state.user = $("user").value.trim() || "guest";
  $("user").value = state.user;
  localStorage.setItem("user", state.user);
  await open(null, false);
  await loadRooms();
}));

$("user").value = state.user;
speak();
view(location.hash ? "chat" : "rooms");
listen();
trying(loadRooms);
