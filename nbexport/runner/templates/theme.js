// Runs before the page is drawn, so that a remembered theme does not flash.
"use strict";
try {
  const theme = localStorage.getItem("nbexport-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a browser that keeps nothing for local files follows the system */ }
