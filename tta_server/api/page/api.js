// What the pages ask the server, with the key of the reader; the key stays in this tab.
const KEPT = "tta-server key";

export async function ask(path, asked = {}) {
  const key = sessionStorage.getItem(KEPT);
  const headers = { ...asked.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...asked, headers });
  } catch {
    throw new Error("the server does not answer; it is asked again");
  }
  const told = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok)
    throw Object.assign(new Error(told?.error ?? `the server said ${response.status}`), { status: response.status });
  return told;
}

export const tell = (method, path, body) =>
  ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export function takeKey(then) {
  const secret = document.getElementById("secret");
  secret.value = sessionStorage.getItem(KEPT) ?? "";
  document.getElementById("key").addEventListener("submit", (event) => {
    event.preventDefault();
    if (secret.value) sessionStorage.setItem(KEPT, secret.value.trim());
    else sessionStorage.removeItem(KEPT);
    then();
  });
}

// Make an element; children are elements or text, which is never read as HTML.
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const show = (id, text) => {
  const place = document.getElementById(id);
  if (place.textContent !== text) place.textContent = text;
};
