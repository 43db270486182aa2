// The images that raised the score last: asked for only when somebody opens them.
import { ask, make } from "./api.js";
import { clock, percent } from "./words.js";

const at = (id) => document.getElementById(id);

function card({ time, distance, png, source, learnt }) {
  const of = (who, answer) =>
    make("p", {}, `${who}: ${answer ? `${answer.label}, ${percent(answer.top[0].probability)}` : "nothing"}`);
  return make(
    "figure",
    { class: "said" },
    make("img", { src: `data:image/png;base64,${png}`, alt: `The image of ${clock(time)}` }),
    make("figcaption", { class: "quiet" }, `${clock(time)}; ${distance.toFixed(1)} times as far as source images`),
    of("Frozen", source),
    of("Adapted", learnt),
  );
}

async function open(chosen) {
  const place = at("strange-images");
  place.replaceChildren();
  if (!at("strange").open) return;
  try {
    const { images } = await ask(`v1/streams/${encodeURIComponent(chosen())}/strange`);
    const none = make("p", { class: "quiet" }, "None has come since they are kept.");
    place.replaceChildren(...(images.length ? images.map(card) : [none]));
  } catch (error) {
    place.replaceChildren(make("p", { class: "quiet" }, error.message));
  }
}

export function prepareStrange(chosen) {
  at("strange").addEventListener("toggle", () => open(chosen));
  addEventListener("hashchange", () => (at("strange").open = false));
}
