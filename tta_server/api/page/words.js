// What the numbers say, in plain words; tta_server/operate/words.py says it alike.
const CAUSES = {
  style: "the images look different from the source's",
  entropy_ratio: "the frozen model is unsure of its answers",
  energy_shift_sigmas: "the frozen model's logits lie elsewhere than on source images",
  feature_distance_ratio: "the features lie elsewhere than on source images",
  prediction_divergence_ratio: "other classes are seen than in source images",
};
const HAPPENED = {
  create: "was opened",
  load: "went on after a restart",
  commit: "learnt from a window",
  reject: "refused what was learnt from a window",
  skip: "did not learn from a window",
  rollback: "went back to an earlier version",
  reset: "went back to the frozen model",
  freeze: "switched it off",
  open: "opened a domain",
  begin: "began a domain",
  merge: "merged two domains",
  forget: "forgot a domain",
  restore: "went back to a snapshot",
  import: "took a state from a file",
  failed: "failed at a window",
  mode: "switched the mode",
  snapshot: "took a snapshot",
  rename: "has another title",
  offer: "was given to other streams",
  settings: "learns in another way",
  drift: "its input drifts, or no longer",
  calibrate: "had images taken as home",
  aside: "was set aside",
  delete: "was erased",
};
const ANSWERS = {
  learnt: "What {whose} has learnt answers.",
  home: "The frozen model answers: the images look like the source's.",
  off: "The frozen model answers: the mode is off.",
  shadow: "The frozen model answers: the mode is shadow.",
  new: "The frozen model answers: the guard has weighed nothing of {whose} yet.",
  guard: "The frozen model answers: the guard has not found what {whose} has learnt more credible.",
  frozen: "The frozen model answers: the guard has switched {whose} off.",
};
export const MARKED = new Set(["reject", "skip", "rollback", "reset", "freeze", "mode", "restore", "import", "failed"]);
export const OF_DOMAINS = new Set(["open", "merge", "forget"]);
export const BY_THE_GUARD = new Set(["commit", "reject", "skip", "rollback", "reset", "freeze"]);

export const percent = (ratio) => (ratio == null ? "not known" : `${(100 * ratio).toFixed(1)}\u00a0%`);
export const clock = (time) =>
  time ? new Date(time).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }) : "";
export const happened = (verdict) => HAPPENED[verdict] ?? verdict;
export const titled = (domain) => (domain.title ? `${domain.id} (${domain.title})` : domain.id);

export function ago(time) {
  const minutes = Math.max(0, (Date.now() - new Date(time)) / 60000);
  if (minutes < 1) return "under a minute ago";
  if (minutes < 90) return `${Math.round(minutes)} min ago`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`;
}

export function drifting(drift) {
  const since = `since ${clock(drift.since)}, ${ago(drift.since)}`;
  const because = CAUSES[drift.because] ?? drift.because;
  const missing = drift.missing ? ` Note: ${drift.missing}.` : "";
  if (drift.state === "drift") return `Yes, ${since}: ${because}.${missing}`;
  if (drift.state === "warning") {
    const harmless = drift.because === "prediction_divergence_ratio" ? ", which is no fault by itself" : "";
    return `Perhaps, ${since}: ${because}${harmless}.${missing}`;
  }
  if (drift.state === "stable")
    return `No. ${since[0].toUpperCase()}${since.slice(1)}, its images look and read like the source's.${missing}`;
  return `Not known yet: too little was seen to say.${missing}`;
}

export function better(stream, drift) {
  const { answered, adapted, source } = stream.labelled;
  const of = ({ accuracy, low, high }) => `${percent(accuracy)} (${percent(low)} to ${percent(high)})`;
  if (adapted.labels) {
    const found = adapted.low > source.high ? "Yes" : adapted.high < source.low ? "No" : "No clear difference";
    return `${found}. Of ${adapted.labels} images with true labels the stream is right on ${of(adapted)}, the frozen model on ${of(source)}.`;
  }
  const answers = answering(stream);
  if (!drift?.learnt.rows) return `Nothing was learnt lately, so there is nothing to compare. ${answers}`;
  const gain = drift.learnt.measures.estimated_gain;
  const credible = !gain ? "neither" : gain > 0 ? "what was learnt" : "the frozen model";
  const guessed = gain == null ? "" : ` Where the two differ, the guard finds ${credible} more credible.`;
  const unsure = answered.labels
    ? `Of ${answered.labels} images with true labels the stream is right on ${of(answered)}; they were no longer there to ask the frozen model.`
    : "Nobody sent true labels, so it is not known for sure.";
  return `${unsure}${guessed} On the last window both agree on ${percent(drift.learnt.agreement)} of the images. ${answers}`;
}

export const answering = (stream) =>
  ANSWERS[stream.source_because || "learnt"].replace("{whose}", stream.domain || "the stream");

export function why(stream) {
  if (stream.frozen)
    return `It switched ${stream.domain || "the stream"} off: ${stream.frozen}. Setting a mode lifts that.`;
  const last = stream.verdicts.findLast((each) => each.who === "engine" && BY_THE_GUARD.has(each.verdict));
  if (!last) return "It has judged nothing yet: it judges windows of images that are learnt from.";
  const whose = last.domain ? ` of ${last.domain}` : "";
  return `At ${clock(last.time)} it ${happened(last.verdict)}${whose}: ${last.reason || last.cause || "no reason was given"}.`;
}
