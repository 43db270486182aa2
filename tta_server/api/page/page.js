// The live page: asks the server every two seconds while somebody looks, and shows what it says.
import { ask, make, show, takeKey } from "./api.js";
import { prepareActions, showActions } from "./actions.js";
import { chart, sparkline } from "./chart.js";
import { prepareStrange } from "./strange.js";
import { MARKED, OF_DOMAINS, ago, better, clock, drifting, happened, percent, titled, why } from "./words.js";

const EVERY_MS = 2000;
const ROWS = 20; // of the table; each costs a request now and then
const LISTED_EVERY = 5; // looks at the chosen stream, for one at the drift of every stream in the table
const at = (id) => document.getElementById(id);
const seen = { after: "", next: null, drifts: new Map(), turn: 0, timer: 0, asking: false, again: false };
const chosen = () => decodeURIComponent(location.hash.slice(1));
const nobody = (error) =>
  error.status === 501 || error.status === 404 || error.status === 503 ? null : Promise.reject(error);
const driftOf = (name) => ask(`v1/streams/${encodeURIComponent(name)}/drift`).catch(nobody);

async function look() {
  clearTimeout(seen.timer);
  seen.again = seen.asking;
  if (seen.asking) return;
  seen.asking = true;
  try {
    if (!document.hidden) await refresh();
    show("trouble", "");
  } catch (error) {
    show("trouble", error.status === 401 ? `${error.message}. Type it above.` : error.message);
  } finally {
    seen.asking = false;
    seen.timer = setTimeout(look, seen.again ? 0 : EVERY_MS);
  }
}

async function refresh() {
  if (!at("model").textContent) show("model", `serves ${(await ask("v2/models")).models.join(", ")}`);
  const page = await ask(`v1/streams?limit=${ROWS}&after=${encodeURIComponent(seen.after)}`);
  seen.next = page.next;
  if (seen.turn++ % LISTED_EVERY === 0) {
    const found = await Promise.all(page.streams.map(({ name, in_memory }) => (in_memory ? driftOf(name) : null)));
    seen.drifts = new Map(page.streams.map(({ name }, place) => [name, found[place]]));
  }
  showStreams(page.streams);
  const shown = at("name").textContent === chosen() && !at("stream").hidden;
  const isOnDisk = page.streams.some(({ name, in_memory }) => name === chosen() && !in_memory);
  if (chosen() && !(shown && isOnDisk)) await showStream(chosen()); // to ask would bring it back each time
}

function showStreams(streams) {
  at("nobody").hidden = streams.length > 0;
  at("streams").hidden = !streams.length;
  at("first").hidden = !seen.after;
  at("next").hidden = !seen.next;
  const body = at("streams").tBodies[0];
  const rows = new Map([...body.rows].map((row) => [row.dataset.name, row]));
  for (const [name, row] of rows) if (!streams.some((each) => each.name === name)) row.remove();
  for (const stream of streams) {
    const row = rows.get(stream.name) ?? body.appendChild(newRow(stream.name));
    fill(row, stream, seen.drifts.get(stream.name));
  }
}

function newRow(name) {
  const row = make(
    "tr",
    { "data-name": name },
    make("th", { scope: "row" }, make("a", { href: `#${encodeURIComponent(name)}` }, name)),
  );
  for (const kind of ["", "", "", "", "", "", "number", "number"]) row.append(make("td", kind ? { class: kind } : {}));
  return row;
}

function fill(row, stream, drift) {
  const [, state, since, evidence, like, mode, answers, version, images] = row.cells;
  row.toggleAttribute("data-chosen", stream.name === chosen());
  state.replaceChildren(
    badge(stream.trouble ? "set aside" : (drift?.state ?? (stream.in_memory ? "unknown" : "on disk"))),
  );
  since.textContent = drift && drift.state !== "unknown" ? ago(drift.since) : "";
  const history = drift?.history.map((each) => each.evidence_decades) ?? [];
  evidence.replaceChildren(history.length ? sparkline(history, drift.evidence_of_drift) : "");
  const current = drift?.domains.find((each) => each.current);
  like.textContent = current ? titled(current) : "";
  mode.textContent = stream.mode + (stream.frozen ? `, ${stream.domain && `${stream.domain} `}frozen by the guard` : "");
  const own = stream.domain || "its own state";
  answers.textContent = stream.answers === "source" ? `frozen model (${stream.source_because})` : own;
  version.textContent = stream.state_version;
  images.textContent = stream.images.toLocaleString();
}

const badge = (state) => make("span", { class: `badge ${state.replace(" ", "-")}` }, state);

async function showStream(name) {
  let stream;
  try {
    stream = await ask(`v1/streams/${encodeURIComponent(name)}`);
  } catch (error) {
    at("stream").hidden = true;
    throw error;
  }
  const drift = await driftOf(name);
  if (name !== chosen()) return;
  seen.drifts.set(name, drift);
  const isNew = at("stream").hidden || at("name").textContent !== name;
  at("stream").hidden = false;
  show("name", name);
  show(
    "drifting",
    drift ? drifting(drift) : "Nobody watches drift: drift.enabled is false in the server's configuration.",
  );
  show("better", better(stream, drift));
  show("why", why(stream));
  showChart(stream, drift);
  showAccuracy(stream, drift);
  bars(
    at("classes"),
    (drift?.classes ?? []).slice(0, 8).map((each) => [each.label, each.share, each.source_share]),
    percent,
    "of late",
    "in source images",
  );
  bars(
    at("layers"),
    (drift?.learnt.layers ?? []).slice(0, 8).map((each) => [each.layer, each.w2]),
    (value) => value.toFixed(3),
    "distance, in standard deviations of the source",
  );
  bars(
    at("domains"),
    (drift?.domains ?? []).map((each) => [titled(each) + (each.current ? ", now" : ""), each.share]),
    percent,
    "of the images of late",
  );
  const verdicts = stream.verdicts.toReversed();
  at("events").tBodies[0].replaceChildren(
    ...verdicts.map((each) =>
      make(
        "tr",
        {},
        make("td", {}, clock(each.time)),
        make("td", {}, each.domain || name),
        make("td", {}, happened(each.verdict)),
        make("td", {}, each.reason),
        make("td", {}, each.who),
        make("td", {}, `${each.version_before} → ${each.version_after}`),
      ),
    ),
  );
  showActions(stream, drift, isNew);
  if (isNew) at("name").focus({ preventScroll: false });
}

function showChart(stream, drift) {
  const select = at("score");
  const names = ["evidence", ...Object.keys(drift?.history.at(-1)?.scores ?? {})];
  if ([...select.options].map((each) => each.value).join() !== names.join()) {
    select.replaceChildren(
      ...names.map((each) =>
        make(
          "option",
          { value: each },
          each === "evidence" ? "evidence of drift, powers of ten" : each.replaceAll("_", " "),
        ),
      ),
    );
  }
  const score = select.value;
  const value = (each) => (score === "evidence" ? each.evidence_decades : (each.scores[score] ?? 0));
  const windows = (drift?.history ?? []).map((each) => ({ time: each.time, state: each.state, value: value(each) }));
  if (windows.length < 2)
    return at("chart").replaceChildren(
      make("p", { class: "quiet" }, "No window of images was scored yet, or one alone."),
    );
  const limits =
    score === "evidence"
      ? [
          { value: drift.evidence_of_warning, name: "warning" },
          { value: drift.evidence_of_drift, name: "drift" },
        ]
      : [];
  const marks = stream.verdicts
    .filter((each) => MARKED.has(each.verdict) || OF_DOMAINS.has(each.verdict))
    .map((each) => ({
      time: each.time,
      kind: OF_DOMAINS.has(each.verdict) ? "domain" : "event",
      name: `${clock(each.time)}: ${happened(each.verdict)}`,
    }));
  const last = windows.at(-1);
  const title = `${select.selectedOptions[0].text} over the last ${windows.length} windows; the last is ${last.value.toPrecision(3)}, and the state is ${drift.state}`;
  return at("chart").replaceChildren(chart(windows, limits, marks, title, Math.max(at("chart").clientWidth, 240)));
}

function showAccuracy(stream, drift) {
  const { answered, adapted, source } = stream.labelled;
  const share = ({ labels, accuracy }) => (labels ? percent(accuracy) : "no labels");
  const estimated = drift?.estimated_accuracy ?? {};
  const rows = [
    ["right, by true labels", share(source), share(adapted.labels ? adapted : answered)],
    ["right, estimated", percent(estimated.source), percent(estimated.adapted)],
  ];
  const head = make(
    "tr",
    {},
    make("td", {}),
    make("th", { scope: "col" }, "frozen"),
    make("th", { scope: "col" }, "adapted"),
  );
  at("accuracy").replaceChildren(
    make(
      "table",
      {},
      make("thead", {}, head),
      make(
        "tbody",
        {},
        ...rows.map(([name, ...values]) =>
          make("tr", {}, make("th", { scope: "row" }, name), ...values.map((each) => make("td", {}, each))),
        ),
      ),
    ),
    make("p", {}, drift?.learnt.rows ? `Both answer ${percent(drift.learnt.agreement)} of the last window alike.` : ""),
  );
}

// rows: [name, value, value beside it or nothing].
function bars(place, rows, told, first, second) {
  if (!rows.length) return place.replaceChildren(make("p", { class: "quiet" }, "Nothing is known yet."));
  const most = Math.max(...rows.flatMap(([, ...values]) => values), 1e-9);
  const one = (value, kind) =>
    make("td", {}, make("meter", { min: 0, max: most, value, class: kind, "aria-hidden": "true" }), ` ${told(value)}`);
  const titles = [first, ...(second ? [second] : [])];
  const head = make("tr", {}, make("td", {}), ...titles.map((each) => make("th", { scope: "col" }, each)));
  const body = rows.map(([name, ...values]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, name),
      ...values.map((value, beside) => one(value, beside ? "source" : "late")),
    ),
  );
  return place.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function turnTo(after) {
  Object.assign(seen, { after, turn: 0 });
  look();
}

at("first").addEventListener("click", () => turnTo(""));
at("next").addEventListener("click", () => turnTo(seen.next));
at("score").addEventListener("change", look);
addEventListener("hashchange", look);
document.addEventListener("visibilitychange", look);
takeKey(() => turnTo(""));
prepareActions(chosen, look);
prepareStrange(chosen);
look();
