// Puts what the server sends in its place, and says how the connection stands.
"use strict";
(() => {
  const source = new EventSource(document.body.dataset.events);
  const said = document.getElementById("said");
  const link = document.getElementById("link");
  const reachable = "a[href], button, select, [tabindex]";

  function tell(text, tone) {
    if (link.textContent !== text) link.textContent = text;
    link.className = "state " + tone;
  }

  function swap(place, html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    const at = [...place.querySelectorAll(reachable)].indexOf(document.activeElement);
    const chosen = [...place.querySelectorAll("select")].map((each) => [each.name, each.value]);
    const scrolled = [...place.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    place.replaceChildren(template.content);
    place.querySelectorAll(".scroll").forEach((each, n) => { each.scrollLeft = scrolled[n] || 0; });
    for (const [name, value] of chosen) {
      const field = [...place.querySelectorAll("select")].find((each) => each.name === name);
      if (field && [...field.options].some((each) => each.value === value)) field.value = value;
    }
    if (at >= 0) place.querySelectorAll(reachable)[at]?.focus({ preventScroll: true });
  }

  source.addEventListener("part", (event) => {
    const end = event.data.indexOf("\n");
    const place = document.getElementById(event.data.slice(0, end));
    if (place) swap(place, event.data.slice(end + 1));
  });
  source.addEventListener("said", (event) => { said.textContent = event.data; });
  source.addEventListener("over", () => {
    source.close();
    tell("The page's server has ended; heterofed watch starts it again", "open");
  });
  source.addEventListener("open", () => tell("Live", "live"));
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) tell("Not connected; reload to try again", "bad");
    else tell("Connection lost; trying again", "open");
  });
})();
