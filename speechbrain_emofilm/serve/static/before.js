// Runs before anything is drawn, so that a dark page is never white first.
try {
  const theme = localStorage.getItem("emofilm-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* a browser that keeps nothing */ }
