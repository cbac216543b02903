"use strict";
// Parts of a page that say `data-live` are fetched anew every so many seconds, or once; what comes is the console's own
// HTML, escaped where it was made. Without scripts every page still shows what was there when it was asked for.
const fetched = async (part) => {
  const answer = await fetch(part.dataset.live, { headers: { "X-Part": "1" } });
  if (!answer.ok) throw new Error(String(answer.status));
  const focused = document.activeElement && part.contains(document.activeElement) ? document.activeElement.id : "";
  part.innerHTML = await answer.text();
  if (focused) document.getElementById(focused)?.focus();
  return answer.headers.get("X-Again");
};

for (const part of document.querySelectorAll("[data-live]")) {
  const every = Number(part.dataset.every || 0) * 1000;
  const turn = async () => {
    let again = every;
    try {
      if (!document.hidden) again = Number(await fetched(part) || 0) * 1000 || every;
      part.removeAttribute("data-stale");
    } catch {
      // What is shown is of a moment ago, and says so.
      part.dataset.stale = "1";
      const told = document.getElementById("stale");
      if (told) told.hidden = false;
      again = again || 5000;
    }
    if (again) setTimeout(turn, again);
  };
  if (part.dataset.now === undefined) setTimeout(turn, every); else turn();
}

for (const control of document.querySelectorAll("select[data-submits]")) {
  control.addEventListener("change", () => control.form.submit());
}
