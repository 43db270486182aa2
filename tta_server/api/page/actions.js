// What an operator can do to the stream on show, each asked for again and with a reason; and the two answers to an image.
import { ask, make, show, tell } from "./api.js";
import { percent, titled } from "./words.js";

const at = (id) => document.getElementById(id);
const stateOf = () => encodeURIComponent(at("whose").value);
const DOES = {
  mode: {
    question: () => `Switch ${at("whose").value} to mode ${at("mode").value}?`,
    effect: "It learns and answers as that mode says from the next request on. A freeze by the guard is lifted.",
    run: (reason) => tell("PATCH", `v1/streams/${stateOf()}`, { mode: at("mode").value, reason }),
  },
  freeze: {
    question: () => `Freeze ${at("whose").value}?`,
    effect: "The frozen model answers and nothing is learnt until another mode is set. What was learnt is kept.",
    run: (reason) => tell("PATCH", `v1/streams/${stateOf()}`, { mode: "off", reason }),
  },
  snapshot: {
    question: () => `Take a snapshot of ${at("whose").value}?`,
    effect: "What it has learnt so far is kept, to go back to.",
    run: (note) => tell("POST", `v1/streams/${stateOf()}/snapshots`, { note }),
  },
  rollback: {
    question: () => `Roll ${at("whose").value} back?`,
    effect: "It goes back to the newest other version that passed the guard's complete check, under a new version.",
    run: (reason) => tell("POST", `v1/streams/${stateOf()}/rollback`, { reason }),
  },
  reset: {
    question: () => `Reset ${at("whose").value}?`,
    effect: "It forgets everything that it has learnt, its domains too, and answers as the frozen model.",
    run: (reason) => tell("POST", `v1/streams/${stateOf()}/reset`, { reason }),
  },
};
let asked = "";

export function showActions(stream, drift, isNew) {
  const domains = (drift?.domains ?? []).filter((each) => each.id !== "source");
  const names = [stream.name, ...stream.domains];
  const select = at("whose");
  if ([...select.options].map((each) => each.value).join() !== names.join()) {
    const kept = names.includes(select.value) ? select.value : stream.name;
    const title = (name) => titled(domains.find((each) => each.id === name) ?? { id: name });
    select.replaceChildren(...names.map((name) => make("option", { value: name }, title(name))));
    select.value = kept;
  }
  allow(stream.name, drift?.style != null || stream.domains.length > 0);
  if (!isNew) return;
  at("mode").value = stream.mode;
  show("done", "");
  at("compared").replaceChildren();
  at("image").value = "";
}

// A stream that tells domains apart has no state of its own to keep or to go back to.
function allow(name, apart) {
  const whole = at("whose").value === name;
  for (const does of ["snapshot", "rollback"]) document.querySelector(`[data-does=${does}]`).disabled = whole && apart;
  show("hint", whole && apart ? "To keep a state or to go back to one, choose a domain: each has its own." : "");
}

async function carryOut(event) {
  event.preventDefault();
  at("confirm").close();
  const { run, question } = DOES[asked];
  const what = question().replace("?", "");
  try {
    const told = await run(at("reason").value);
    show("done", `${what}: done.${told?.id ? ` It is called ${told.id}.` : ""}`);
  } catch (error) {
    show("done", `${what}: not done. ${error.message}`);
  }
}

function said(title, answer, note) {
  const rows = answer?.top.map((each) =>
    make("tr", {}, make("td", {}, each.label), make("td", { class: "number" }, percent(each.probability))),
  );
  return make(
    "div",
    { class: "said" },
    make("h4", {}, title),
    make("p", { class: "label" }, answer ? answer.label : "nothing"),
    rows ? make("table", {}, make("tbody", {}, ...rows)) : "",
    make("p", { class: "quiet" }, note),
  );
}

async function compare(file) {
  const place = at("compared");
  try {
    const { images } = await ask(`v1/streams/${stateOf()}/compare`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": file.type || "image/png" },
    });
    const [{ domain, adapted, source, learnt }] = images;
    const like = { source: "It looks like the source's images.", "": "" }[domain] ?? `It is taken for ${domain}.`;
    const whose = learnt
      ? adapted
        ? "A request would get this."
        : "The frozen model would answer a request."
      : "Nothing was learnt of such images.";
    place.replaceChildren(
      make("p", {}, like),
      make(
        "div",
        { class: "both" },
        said("Frozen", source, adapted ? "" : "A request would get this."),
        said("Adapted", learnt, whose),
      ),
    );
  } catch (error) {
    place.replaceChildren(make("p", { class: "warning" }, error.message));
  }
}

export function prepareActions(chosen, look) {
  for (const button of document.querySelectorAll("[data-does]")) {
    button.addEventListener("click", () => {
      asked = button.dataset.does;
      show("question", DOES[asked].question());
      show("effect", DOES[asked].effect);
      at("reason").value = "";
      at("confirm").showModal();
      at("reason").focus();
    });
  }
  at("confirm")
    .querySelector("form")
    .addEventListener("submit", (event) => carryOut(event).then(look));
  at("no").addEventListener("click", () => at("confirm").close());
  at("whose").addEventListener("change", look);
  at("image").addEventListener("change", () => at("image").files[0] && compare(at("image").files[0]));
  const drop = at("drop");
  const over = (event) => {
    event.preventDefault();
    drop.toggleAttribute("data-over", event.type === "dragover");
    if (event.type === "drop" && event.dataTransfer.files[0]) compare(event.dataTransfer.files[0]);
  };
  for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, over);
}
