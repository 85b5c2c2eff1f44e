// The little that a page cannot do without a script: follow a training, show the command of a form, copy it, take a dropped file.
"use strict";

function follow(place) {
  const said = document.querySelector("[data-said]");
  const look = async () => {
    try {
      const answer = await fetch(place.dataset.progress, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.status);
      place.innerHTML = await answer.text();
    } catch {
      if (said) said.textContent = "The studio does not answer.";
      setTimeout(look, 3000);
      return;
    }
    const state = place.firstElementChild;
    if (!state || state.dataset.status !== "running") { location.reload(); return; }
    if (said && said.textContent !== state.dataset.say) said.textContent = state.dataset.say;
    setTimeout(look, 700);
  };
  look();
}

function preview(form) {
  const shown = form.querySelector("[data-command-text]");
  let waiting = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const fields = new URLSearchParams(new FormData(form));
      fields.delete("csrf");
      const answer = await fetch(`${form.dataset.preview}?${fields}`);
      shown.textContent = (await answer.text()).trim();
    }, 250);
  });
}

function copying(button) {
  if (!navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

function dropping(place) {
  const input = place.querySelector("input[type=file]");
  input.addEventListener("change", () => {  // said before megabytes are sent
    const large = input.files.length && input.files[0].size > Number(place.dataset.drop);
    input.setCustomValidity(large ? "This file is too large." : "");
    if (large) input.reportValidity();
  });
  const over = (event, yes) => { event.preventDefault(); place.classList.toggle("over", yes); };
  place.addEventListener("dragover", (event) => over(event, true));
  place.addEventListener("dragleave", (event) => over(event, false));
  place.addEventListener("drop", (event) => {
    over(event, false);
    if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; input.dispatchEvent(new Event("change")); input.form.requestSubmit(); }
  });
}

document.querySelectorAll("[data-progress]").forEach(follow);
document.querySelectorAll("[data-preview]").forEach(preview);
document.querySelectorAll("[data-copy]").forEach(copying);
document.querySelectorAll("[data-drop]").forEach(dropping);
document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", () => {
  const button = form.querySelector("button:not([type=button])");
  if (button) { button.setAttribute("aria-busy", "true"); setTimeout(() => { button.disabled = true; }, 0); }
}));
addEventListener("pageshow", () => document.querySelectorAll("[aria-busy]").forEach((b) => { b.removeAttribute("aria-busy"); b.disabled = false; }));
