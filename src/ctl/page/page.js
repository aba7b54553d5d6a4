"use strict";

// A browser makes up to three connections for one fetch, the last 250 ms after the first. It has to
// come before the next knock, or it would break the sequence. So long from knock to knock,
const PAUSE = 500;
// and so long after the first where nothing answers: it may have to look the name up.
const FIRST = 1500;

const at = (selector) => document.querySelector(selector);
// The secret is sealed together with this text, to the letter.
const described = at("#door").textContent;
const [texts, door, sealed] = ["#texts", "#door", "#sealed"].map((it) => JSON.parse(at(it).textContent));
const language = navigator.languages.map((tag) => tag.split("-")[0]).find((tag) => tag in texts) ?? "en";
// No browser has it on a page that came by http.
const derives = sealed !== null && crypto.subtle !== undefined;
const field = at(derives ? "#passphrase" : "#code");
const memory = `knocked ${door.client} ${door.name} ${door.host}`;
let used = null;

function text(key, values) {
  const who = texts[language][door.family ? "whoOf" : "who"].replace("{family}", door.family);
  const all = { ...door, who, rounds: sealed?.rounds.toLocaleString(language), ...values };
  return texts[language][key].replace(/\{(\w+)\}/g, (_, name) => all[name]);
}

const say = (key, values) => { at("#status").textContent = key && text(key, values); };
const sleep = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });
const portsOf = (code) => code.match(/../g).map((pair) => door.base + Number(pair));
const refusedOf = (code) => portsOf(code).filter((port) => door.refused.includes(port));

function complain(key, values) {
  at("#problem").textContent = text(key, values);
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

function show() {
  document.documentElement.lang = language;
  document.querySelectorAll("[data-text]").forEach((it) => { it.textContent = text(it.dataset.text); });
  document.title = text("title");
  const other = derives ? "code" : "passphrase";
  document.querySelectorAll(`#${other}, [for=${other}], #${other}-hint`).forEach((it) => it.remove());
  if (sealed && !derives) at("#problem").textContent = text("noCrypto");
  if (door.link) at("#service").href = door.link;
  at("#form").addEventListener("submit", submit);
  at("#form").hidden = false;
  field.focus();
}

async function submit(event) {
  event.preventDefault();
  if (at("#form").ariaBusy === "true") return;
  at("#form").ariaBusy = "true";
  field.removeAttribute("aria-invalid");
  at("#problem").textContent = "";
  at("#service").hidden = true;
  say("");
  try {
    const code = await (derives ? derivedCode() : typedCode());
    if (code) await knock(portsOf(code));
  } finally { at("#form").ariaBusy = "false"; }
}

function typedCode() {
  const code = field.value.replace(/\s/g, "");
  if (code.length !== door.digits || /\D/.test(code)) return complain("codeProblem");
  const ports = refusedOf(code).join(", ");
  return ports ? complain("refused", { ports }) : code;
}

async function derivedCode() {
  say("opening");
  const key = await unsealedKey(field.value).catch(() => say(""));
  if (!key) return complain("passphraseProblem");
  field.value = "";
  // Where a page has no storage, its own memory has to do.
  try { used = sessionStorage.getItem(memory) ?? used; } catch {}
  for (;;) {
    const step = Math.floor(Date.now() / 1000 / door.step);
    const left = (step + 1) * door.step * 1000 - Date.now();
    const takes = FIRST + door.digits / 2 * PAUSE;
    const code = await codeOf(key, step);
    if (String(step) !== used && (left > takes || takes >= door.step * 1000) && !refusedOf(code).length) {
      used = String(step);
      try { sessionStorage.setItem(memory, used); } catch {}
      return code;
    }
    say("waiting", { seconds: Math.ceil(left / 1000) });
    await sleep(left);
  }
}

async function unsealedKey(passphrase) {
  const utf8 = (string) => new TextEncoder().encode(string);
  const [salt, iv, secret] = [sealed.salt, sealed.nonce, sealed.secret].map((base64) =>
    Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
  const typed = await crypto.subtle.importKey("raw", utf8(passphrase), "PBKDF2", false, ["deriveKey"]);
  const stretch = { name: "PBKDF2", hash: "SHA-256", salt, iterations: sealed.rounds };
  const key = await crypto.subtle.deriveKey(stretch, typed, { name: "AES-GCM", length: 256 }, false, ["decrypt"]);
  const opened = await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData: utf8(described) }, key, secret);
  return crypto.subtle.importKey("raw", opened, { name: "HMAC", hash: "SHA-1" }, false, ["sign"]);
}

// RFC 6238.
async function codeOf(key, step) {
  const counter = new DataView(new ArrayBuffer(8));
  counter.setBigUint64(0, BigInt(step));
  const mac = new DataView(await crypto.subtle.sign("HMAC", key, counter));
  const number = mac.getUint32(mac.getUint8(19) & 15) & 0x7fffffff;
  return String(number % 10 ** door.digits).padStart(door.digits, "0");
}

async function knock(ports) {
  const clock = () => new Date().toLocaleTimeString(language);
  const scheme = location.protocol === "https:" ? "https" : "http";
  const progress = at("#progress"), begun = clock(), count = ports.length;
  progress.hidden = false;
  for (const [index, port] of ports.entries()) {
    progress.value = index / count;
    say("knocking", { number: index + 1, count, port });
    const pause = sleep(PAUSE), abort = new AbortController(), signal = abort.signal;
    setTimeout(() => abort.abort(), index ? PAUSE : FIRST);
    const how = { mode: "no-cors", cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer", signal };
    // Refused, too late, or an answer: a page is not told which, and it is a knock all the same.
    await fetch(`${scheme}://${door.at}:${port}/`, how).catch(() => null);
    await pause;
  }
  progress.hidden = true;
  say("done", { begun, ended: clock(), ports: ports.join(", ") });
  at("#service").hidden = !door.link;
}

show();
