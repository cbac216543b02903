"use strict";
// Parts of a page that say `data-live` are fetched anew every so many seconds, or once; what comes is the console's own
// HTML, escaped where it was made. Without scripts every page still shows what was there when it was asked for.
const fetched = async (part) => {
  const address = part.dataset.live;
  const answer = await fetch(address, { headers: { "X-Part": "1" } });
  if (!answer.ok) throw new Error(String(answer.status));
  const text = await answer.text();
  if (part.dataset.live !== address) return null; // another was asked for meanwhile, and comes by itself
  const focused = part.contains(document.activeElement) ? document.activeElement.id : null;
  part.innerHTML = text;
  if (focused !== null) (document.getElementById(focused) ?? part.querySelector("a"))?.focus({ preventScroll: true });
  return answer.headers.get("X-Again");
};

const stale = document.getElementById("stale");
for (const part of document.querySelectorAll("[data-live]")) {
  const every = Number(part.dataset.every || 0) * 1000;
  const turn = async () => {
    let again = every;
    try {
      if (!document.hidden) again = Number(await fetched(part) || 0) * 1000 || every;
      part.removeAttribute("data-stale");
      stale.hidden = !document.querySelector("[data-stale]");
    } catch {
      // What is shown is of a moment ago, and says so.
      part.dataset.stale = "1";
      stale.hidden = false;
      again = again || 5000;
    }
    if (again) setTimeout(turn, again);
  };
  if (part.dataset.now === undefined) setTimeout(turn, every); else turn();
}

// A link with `data-swaps` leads to the page it stands on with another question. Its part alone is asked anew, at
// `/parts` and the page's own address, so that the reader's place and the focus stay; "back" goes the same way.
const swapped = async (part, page) => {
  const address = part.dataset.live = `/parts${page.pathname}${page.search}`;
  part.setAttribute("aria-busy", "true");
  try {
    await fetched(part);
  } catch {
    if (part.dataset.live === address) location.assign(page); // the whole page says what is wrong
  }
  if (part.dataset.live !== address) return;
  part.removeAttribute("aria-busy");
  document.getElementById("heard").textContent = part.querySelector("[data-tells]")?.textContent ?? "";
};

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swaps]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  swapped(link.closest("[data-live]"), new URL(link.href));
});

addEventListener("popstate", () => {
  const part = document.querySelector("[data-live]:has(a[data-swaps])");
  if (part && part.dataset.live !== `/parts${location.pathname}${location.search}`) swapped(part, new URL(location));
});

for (const control of document.querySelectorAll("select[data-submits]")) {
  control.addEventListener("change", () => control.form.submit());
}
