// Search, theme and the visibility of code. Without scripts the pages can be read in full.
"use strict";

const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* no store */ } };
const remembered = (name) => { try { return localStorage.getItem(name); } catch { return null; } };

// Theme: the system's, until the reader chooses.
{
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    remember("nbexport-theme", theme);
    label();
  });
  system.addEventListener("change", label);
  label();
  button.hidden = false;
}

// Code: all of a page's at once; each cell's by its own summary.
const codeButton = document.getElementById("code");
if (codeButton) {
  const cells = document.querySelectorAll("details.code");
  const set = (shown) => {
    for (const cell of cells) cell.open = shown;
    codeButton.textContent = shown ? "Hide code" : "Show code";
    codeButton.dataset.shown = shown;
  };
  codeButton.addEventListener("click", () => {
    const shown = codeButton.dataset.shown !== "true";
    remember("nbexport-code", shown ? "shown" : "hidden");
    set(shown);
  });
  set(remembered("nbexport-code") !== "hidden");
  codeButton.hidden = cells.length === 0;
  addEventListener("beforeprint", () => set(true));
}

// Contents: beside the text where there is room, folded above it where there is none.
const contents = document.querySelector(".side > details");
if (contents) {
  const wide = matchMedia("(min-width: 68rem)");
  const fold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map([...document.querySelectorAll(".sections a")].map((a) => [a.hash.slice(1), a]));
  const heads = [...links.keys()].map((id) => document.getElementById(decodeURIComponent(id))).filter(Boolean);
  const mark = () => {
    const above = heads.filter((head) => head.getBoundingClientRect().top < innerHeight / 3).pop();
    for (const [id, link] of links) {
      if (above && decodeURIComponent(id) === above.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}

// What can be scrolled must be reachable by keyboard.
const scrollers = () => {
  for (const box of document.querySelectorAll(".scroll, .output_html, pre")) {
    const sideways = box.scrollWidth > box.clientWidth;
    if (sideways || box.scrollHeight > box.clientHeight) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", sideways ? "Scrolls sideways" : "Scrolls");
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
};
addEventListener("resize", scrollers);
addEventListener("load", scrollers);
scrollers();

// Search: every word must occur in a section; headings count more than text.
{
  const search = document.querySelector(".search");
  const query = document.getElementById("query");
  const found = search.querySelector(".found");
  const list = found.querySelector("ol");
  const count = document.getElementById("count");
  const SHOWN = 20, BEFORE = 50, AFTER = 110;

  const occurrences = (text, word) => text.split(word).length - 1;
  const score = (entry, words) => {
    let total = 0;
    for (const word of words) {
      const inText = occurrences(entry.low, word);
      const inHead = occurrences(entry.lowHead, word);
      const inTitle = occurrences(entry.lowTitle, word);
      if (!inText && !inHead && !inTitle) return 0;
      total += Math.min(inText, 5) + 10 * inHead + 4 * inTitle;
    }
    return total;
  };
  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const snippet = (entry, words) => {
    const at = Math.min(...words.map((word) => entry.low.indexOf(word)).filter((n) => n >= 0), entry.low.length);
    // From the beginning of a word on.
    const start = at >= entry.low.length || at <= BEFORE ? 0 : entry.text.indexOf(" ", at - BEFORE) + 1;
    const text = entry.text.slice(start, start + BEFORE + AFTER);
    const line = element("p", start ? "…" : "");
    const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    for (const part of text.split(new RegExp(`(${escaped.join("|")})`, "i"))) {
      line.append(words.includes(part.toLowerCase()) ? element("mark", part) : part);
    }
    if (start + BEFORE + AFTER < entry.text.length) line.append("…");
    return line;
  };
  const entries = (globalThis.nbexportSections ?? []).map((entry) => ({
    ...entry,
    low: entry.text.toLowerCase(),
    lowHead: entry.heading.toLowerCase(),
    lowTitle: entry.title.toLowerCase(),
  }));
  const show = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren();
    found.hidden = words.length === 0;
    if (!words.length) { count.textContent = ""; return; }
    const hits = entries.map((entry) => [score(entry, words), entry]).filter(([n]) => n > 0);
    hits.sort((a, b) => b[0] - a[0]);
    count.textContent = hits.length === 1 ? "1 section" : `${hits.length || "No"} sections`;
    for (const [, entry] of hits.slice(0, SHOWN)) {
      const link = element("a", entry.heading === entry.title ? entry.title : `${entry.title} › ${entry.heading}`);
      link.href = `${entry.page}.html#${entry.anchor}`;
      link.addEventListener("click", () => { found.hidden = true; });
      const item = document.createElement("li");
      item.append(link, snippet(entry, words));
      list.append(item);
    }
  };
  query.addEventListener("input", show);
  query.addEventListener("focus", show);
  search.addEventListener("keydown", (event) => {
    const links = [...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") {
      query.focus();
      found.hidden = true; // which the focus has shown again
    } else if (event.key === "ArrowDown" && links.length) {
      links[Math.min(at + 1, links.length - 1)].focus();
      event.preventDefault();
    } else if (event.key === "ArrowUp" && at >= 0) {
      (at ? links[at - 1] : query).focus();
      event.preventDefault();
    } else if (event.key === "Enter" && at < 0 && links.length) {
      links[0].click();
      event.preventDefault();
    }
  });
  document.addEventListener("click", (event) => { if (!search.contains(event.target)) found.hidden = true; });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
    if (event.key === "/" && !typing) { query.focus(); event.preventDefault(); }
  });
  search.hidden = false;
}
