"use strict";

const TEXTS = {
  en: {
    title: "Knock at {host}",
    about: "This page knocks at the door “{name}” of {host}. {who} is let in.",
    who: "The address that you come from",
    whoOf: "Your IPv{family} address, and no other of yours,",
    local: "{host} is in a local network. If the browser asks whether this page may reach devices there, allow it; then knock once more, with the next code.",
    code: "Code",
    codeHint: "The {digits} digits that your authenticator app shows now.",
    codeProblem: "A code has {digits} digits: there are {count} here.",
    passphrase: "Passphrase",
    passphraseHint: "It opens the secret in this page (PBKDF2-HMAC-SHA-256 with {rounds} rounds, AES-256-GCM), and is kept nowhere.",
    passphraseProblem: "This is not the passphrase of this page.",
    noCrypto: "Here the browser cannot decrypt the secret in this page: open it from a file or by https. Or type a code.",
    refused: "Browsers do not connect to port {ports}, so this code cannot be knocked: wait for the next one.",
    knock: "Knock",
    opening: "Opening the secret …",
    waiting: "The next code comes in {seconds} s: waiting for it, since this one is used, almost over, or has a port that browsers refuse.",
    knocking: "Knock {number} of {count}: port {port}",
    done: "Sent to {at} from {begun} to {ended}: ports {ports}. A page cannot see whether a door opens: try it. If it stays shut, take the next code, and see that this device’s clock is right.",
    service: "Go to {link}",
  },
  de: {
    title: "Anklopfen bei {host}",
    about: "Diese Seite klopft an der Tür „{name}“ von {host}. {who} wird eingelassen.",
    who: "Die Adresse, von der Sie kommen,",
    whoOf: "Ihre IPv{family}-Adresse und keine andere von Ihnen",
    local: "{host} steht in einem lokalen Netz. Fragt der Browser, ob diese Seite dort Geräte erreichen darf, erlauben Sie es und klopfen noch einmal, mit dem nächsten Code.",
    code: "Code",
    codeHint: "Die {digits} Ziffern, die Ihre Authenticator-App gerade zeigt.",
    codeProblem: "Ein Code hat {digits} Ziffern, hier sind es {count}.",
    passphrase: "Passphrase",
    passphraseHint: "Sie öffnet das Geheimnis in dieser Seite (PBKDF2-HMAC-SHA-256 mit {rounds} Runden, AES-256-GCM) und wird nirgends aufbewahrt.",
    passphraseProblem: "Das ist nicht die Passphrase dieser Seite.",
    noCrypto: "Hier kann der Browser das Geheimnis in dieser Seite nicht entschlüsseln: Öffnen Sie sie als Datei oder über https. Oder tippen Sie einen Code.",
    refused: "Browser verbinden sich nicht mit Port {ports}, darum lässt sich mit diesem Code nicht klopfen: Warten Sie auf den nächsten.",
    knock: "Anklopfen",
    opening: "Das Geheimnis wird geöffnet …",
    waiting: "Der nächste Code kommt in {seconds} s: Die Seite wartet auf ihn, denn dieser ist verbraucht, fast vorbei oder hat einen Port, den Browser ablehnen.",
    knocking: "Klopfen {number} von {count}: Port {port}",
    done: "Gesendet an {at} von {begun} bis {ended}: Ports {ports}. Eine Seite kann nicht sehen, ob sich eine Tür öffnet: Probieren Sie es. Bleibt sie zu, nehmen Sie den nächsten Code, und sehen Sie nach, ob die Uhr dieses Geräts stimmt.",
    service: "Weiter zu {link}",
  },
};

const at = (selector) => document.querySelector(selector);
// What the secret is sealed for, to the letter.
const described = at("#door").textContent;
const door = JSON.parse(described);
const sealed = JSON.parse(at("#sealed").textContent);
// No browser has it on a page that came by http.
const derives = sealed !== null && crypto.subtle !== undefined;
const form = at("#form"), field = at("input"), problem = at("#problem");
const spoken = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in TEXTS) ?? "en";
const memory = `knocked ${door.client} ${door.name} ${door.host}`;
let used = null, busy = false;

function text(key, values) {
  const all = { ...door, ...sealed, ...values };
  return TEXTS[spoken][key].replace(/\{(\w+)\}/g, (_, name) => all[name]);
}

const say = (key, values) => { at("#status").textContent = text(key, values); };
const sleep = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });
const portsOf = (code) => code.match(/../g).map((pair) => door.base + Number(pair));
const refusedOf = (code) => portsOf(code).filter((port) => door.refused.includes(port));

function complain(key, values) {
  problem.textContent = text(key, values);
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

function show() {
  const what = derives ? "passphrase" : "code";
  document.documentElement.lang = spoken;
  document.title = at("h1").textContent = text("title");
  at("#about").textContent = text("about", { who: text(door.family ? "whoOf" : "who") });
  at("#local").textContent = text("local");
  at("#local").hidden = !door.local;
  at("label").htmlFor = field.id = what;
  at("label").textContent = text(what);
  at("#hint").textContent = text(`${what}Hint`, { rounds: sealed?.rounds.toLocaleString(spoken) });
  at("#knock").textContent = text("knock");
  Object.assign(field, derives
    ? { type: "password", autocomplete: "current-password" }
    : { inputMode: "numeric", autocomplete: "one-time-code", pattern: `( *[0-9]){${door.digits}} *` });
  if (sealed && !derives) problem.textContent = text("noCrypto");
  form.addEventListener("submit", submit);
  form.hidden = false;
}

async function submit(event) {
  event.preventDefault();
  if (busy) return;
  busy = true;
  form.setAttribute("aria-busy", "true");
  field.removeAttribute("aria-invalid");
  problem.textContent = at("#status").textContent = "";
  at("#service").hidden = true;
  const code = await (derives ? derivedCode() : typedCode());
  if (code) await knockAll(portsOf(code));
  form.removeAttribute("aria-busy");
  busy = false;
}

function typedCode() {
  const code = field.value.replace(/\s/g, "");
  const refused = /^\d+$/.test(code) && code.length === door.digits ? refusedOf(code) : null;
  if (refused?.length === 0) return code;
  if (refused) complain("refused", { ports: refused.join(", ") });
  else complain("codeProblem", { count: code.replace(/\D/g, "").length });
  return null;
}

async function derivedCode() {
  say("opening");
  const key = await unsealedKey(field.value).catch(() => null);
  at("#status").textContent = "";
  if (!key) return complain("passphraseProblem");
  field.value = "";
  // Where a page has no storage, as that of a file may have none, its own memory has to do.
  try { used = sessionStorage.getItem(memory) ?? used; } catch {}
  for (;;) {
    const step = Math.floor(Date.now() / 1000 / door.step);
    const left = (step + 1) * door.step * 1000 - Date.now();
    const takes = door.digits / 2 * door.limit;
    const code = await codeOf(key, step);
    if (String(step) !== used && (left > takes || takes > door.step * 1000) && !refusedOf(code).length) {
      used = String(step);
      try { sessionStorage.setItem(memory, used); } catch {}
      return code;
    }
    say("waiting", { seconds: Math.ceil(left / 1000) });
    await sleep(left);
  }
}

async function unsealedKey(passphrase) {
  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const utf8 = (string) => new TextEncoder().encode(string);
  const typed = await crypto.subtle.importKey("raw", utf8(passphrase), "PBKDF2", false, ["deriveKey"]);
  const stretch = { name: "PBKDF2", hash: "SHA-256", salt: bytes(sealed.salt), iterations: sealed.rounds };
  const key = await crypto.subtle.deriveKey(stretch, typed, { name: "AES-GCM", length: 256 }, false, ["decrypt"]);
  const how = { name: "AES-GCM", iv: bytes(sealed.nonce), additionalData: utf8(described) };
  const secret = await crypto.subtle.decrypt(how, key, bytes(sealed.secret));
  return crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-1" }, false, ["sign"]);
}

// RFC 6238.
async function codeOf(key, step) {
  const counter = new DataView(new ArrayBuffer(8));
  counter.setBigUint64(0, BigInt(step));
  const mac = new DataView(await crypto.subtle.sign("HMAC", key, counter));
  const number = mac.getUint32(mac.getUint8(19) & 15) & 0x7fffffff;
  return String(number % 10 ** door.digits).padStart(door.digits, "0");
}

async function knockAll(ports) {
  const clock = () => new Date().toLocaleTimeString(spoken);
  const progress = at("#progress"), begun = clock(), count = ports.length;
  Object.assign(progress, { max: count, value: 0, hidden: false, ariaLabel: text("knock") });
  for (const [index, port] of ports.entries()) {
    say("knocking", { number: index + 1, count, port });
    await knock(port);
    progress.value = index + 1;
  }
  progress.hidden = true;
  say("done", { begun, ended: clock(), ports: ports.join(", ") });
  if (door.link) Object.assign(at("#service"), { href: door.link, textContent: text("service"), hidden: false });
}

// A browser connects up to three times for one fetch. The last of them has to come before the next
// knock: to a door only a repetition of its latest knock is none.
async function knock(port) {
  const begun = performance.now();
  const limit = new AbortController();
  setTimeout(() => limit.abort(), door.limit);
  const scheme = location.protocol === "https:" ? "https" : "http";
  const how = { mode: "no-cors", cache: "no-store", credentials: "omit", signal: limit.signal };
  // Refused, too late, or an answer: a page is not told which, and it is a knock all the same.
  try { await fetch(`${scheme}://${door.at}:${port}/`, how); } catch {}
  limit.abort();
  await sleep(begun + door.pause - performance.now());
}

show();
