// Keeps a page about something that runs up to date, and lets a point of the plot be selected in place.
// Without this script the page says the same after a reload.

const REFRESH_MS = 1000; // between two looks, at least
const POLL_MS = 3000; // while the server pushes nothing
const QUIET_MS = 15000; // without a push after which is looked all the same
const KINDS = [
  "job_queued", "job_started", "job_resumed", "cancel_requested",
  "trial_started", "trial_relaunched", "trial_finished", "job_finished", "progress",
];

let pressed = false; // while a button is held down nothing is replaced under it
addEventListener("pointerdown", () => { pressed = true; });
addEventListener("pointerup", () => { pressed = false; });
addEventListener("pointercancel", () => { pressed = false; });

async function fetched(address) {
  const response = await fetch(address, { credentials: "same-origin" });
  if (response.redirected) location.reload(); // the session is over
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// Put the new version of a part in the place of the old one; what is open, focused and scrolled stays so.
function replace(id, page) {
  const old = document.getElementById(id);
  const fresh = page.getElementById(id);
  if (!old || !fresh || pressed || old.outerHTML === fresh.outerHTML) return;
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  const opened = [...old.querySelectorAll("details[open][id]")].map((element) => element.id);
  const scrolled = [...old.querySelectorAll(".scroll[id]")].map((element) => [element.id, element.scrollLeft]);
  old.replaceWith(document.importNode(fresh, true));
  opened.forEach((name) => document.getElementById(name)?.setAttribute("open", ""));
  scrolled.forEach(([name, left]) => { const found = document.getElementById(name); if (found) found.scrollLeft = left; });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function show(address) {
  const page = await fetched(address);
  ["actions", "progress", "results"].forEach((id) => replace(id, page));
}

// --- a job ---------------------------------------------------------------------------------------------------------

const job = document.getElementById("progress") && location.pathname;
let source = null;
let looked = 0;
let waiting = false;

async function look() {
  const before = document.getElementById("progress").dataset;
  const page = await fetched(`${job}/progress`);
  const after = page.getElementById("progress").dataset;
  if (after.mark !== before.mark) {
    await show(location.href);
    document.getElementById("said").textContent = after.said;
  } else {
    replace("progress", page);
  }
  if (!document.getElementById("progress").dataset.open) stop();
}

function soon() {
  if (waiting) return;
  waiting = true;
  setTimeout(async () => {
    looked = Date.now();
    try { await look(); } catch { /* the server is away: the next look may reach it */ }
    waiting = false;
  }, Math.max(0, looked + REFRESH_MS - Date.now()));
}

function listen() {
  source = new EventSource(job.replace("/jobs/", "/v1/jobs/") + "/events");
  KINDS.forEach((kind) => source.addEventListener(kind, soon));
}

function stop() {
  source?.close();
  source = null;
}

if (job && document.getElementById("progress").dataset.open) {
  listen();
  const timer = setInterval(() => {
    if (!document.getElementById("progress").dataset.open) clearInterval(timer);
    else if (!document.hidden && (source?.readyState !== EventSource.OPEN || Date.now() - looked > QUIET_MS)) soon();
  }, POLL_MS);
  document.addEventListener("visibilitychange", () => { // a hidden page holds no connection: browsers have few
    if (document.hidden) stop();
    else if (document.getElementById("progress").dataset.open) { listen(); soon(); }
  });
}

// --- selecting -------------------------------------------------------------------------------------------------------

async function select(address) {
  await show(address);
  const heading = document.getElementById("selected");
  heading?.focus({ preventScroll: true });
  heading?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-select]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const address = link.getAttribute("href");
  select(address).then(() => history.pushState(null, "", address), () => location.assign(address));
});
if (job) addEventListener("popstate", () => show(location.href).catch(() => location.reload()));

document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  const spot = event.target.closest?.("a.spot");
  if (!step || !spot) return;
  event.preventDefault();
  const spots = [...document.querySelectorAll("a.spot")].sort((one, other) => one.dataset.x - other.dataset.x);
  spots[(spots.indexOf(spot) + step + spots.length) % spots.length].focus();
});

// --- the list --------------------------------------------------------------------------------------------------------

if (document.getElementById("list")?.dataset.reload) {
  setInterval(async () => {
    if (document.hidden) return;
    try { replace("list", await fetched(location.href)); } catch { /* the next time may reach it */ }
  }, POLL_MS);
}
