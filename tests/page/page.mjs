// What a user can see and do on the page. `tests/page/run` installs the dependencies, and starts this file with the
// paths of the stand-in and of Chromium. Screenshots are in target/page/.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const shots = new URL("../../target/page/", import.meta.url);
const require = createRequire(shots);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [standIn, chromiumPath] = process.argv.slice(2);
const program = spawn(standIn, { stdio: ["ignore", "pipe", "inherit"] });
process.on("exit", () => program.kill());
let origin;
for await (const line of createInterface(program.stdout)) {
  origin = line.match(/http:\/\/localhost:\d+/)?.[0];
  if (origin) break;
}
assert(origin, "the stand-in prints the address of its page");

const browser = await chromium.launch({
  executablePath: chromiumPath,
  args: "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split(" "),
});

let passed = 0;
let failed = 0;

// Runs one check in a new browser. Each check also fails if the page sends a request to another host or logs an error.
async function check(name, { refused, complains, ...options }, test) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(10_000);
  const page = await context.newPage();
  const complaints = [];
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:") complaints.push(`asked ${url.origin}`);
  });
  page.on("pageerror", (error) => complaints.push(`threw ${error}`));
  page.on("console", (message) => {
    // Chromium logs each status other than 2xx, and each broken connection.
    const reported = message.location().url.startsWith(`${origin}/api/call`) && message.text().startsWith("Failed to load resource");
    if (!(refused && reported)) complaints.push(`console: ${message.text()}`);
  });
  try {
    await test(page, context);
    assert.deepEqual(complaints.filter((one) => !complains?.test(one)), []);
    passed += 1;
    console.log(`ok - ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`not ok - ${name}\n${String(error.stack ?? error).replace(/^/gm, "    ")}`);
  } finally {
    await context.close();
  }
}

const primary = (page) => page.getByRole("button", { name: "Make the call" });
const refusals = (page) => page.getByRole("group", { name: "Or see it refused" });
const panel = (page) => page.getByRole("status");
const steps = (page) => page.locator("li .time").allTextContents();
const states = (page, among) => page.locator(`${among}[data-hop]`).evaluateAll((all) => Object.fromEntries(all.map((one) => [one.dataset.hop, one.dataset.state])));

async function open(page) {
  const response = await page.goto(origin);
  return response.headers();
}

// Clicks, and waits for the result.
async function press(page, button) {
  const [response] = await Promise.all([page.waitForResponse((one) => one.url().includes("/api/call")), button.click()]);
  await panel(page).getByRole("heading").waitFor();
  return response;
}

const unbroken = (text) => text.replaceAll("`", "");

// The texts that the page shows for any JSON. It shows an object as a list of members, and other values as text.
function texts(value) {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return Object.entries(value).flatMap(([key, member]) => [key, ...texts(member)]);
  return [typeof value === "string" ? value : JSON.stringify(value)];
}

// Makes the call with another of the stand-in's tokens.
const withToken = (page, token) => primary(page).evaluate((button, name) => { button.dataset.token = name; }, token);

await check("a strict policy comes with the page", {}, async (page) => {
  const headers = await open(page);
  const policy = headers["content-security-policy"];
  assert.match(policy, /^default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; /);
  assert.doesNotMatch(policy, /unsafe|\*|http/);
  assert.equal(headers["x-content-type-options"], "nosniff");
  assert.equal(headers["referrer-policy"], "no-referrer");
});

for (const [token, exchange] of [["", "skipped"], ["exchanged", "done"]]) {
  await check(`the call, ${token || "not exchanged"}: the backend's answer, and the time of each step`, {}, async (page) => {
    await open(page);
    await withToken(page, token);
    const response = await press(page, primary(page));
    const times = response.headers()["server-timing"];
    const body = await response.json();
    const answer = await panel(page).innerText();
    assert.match(answer, /^The backend answered/);
    for (const text of texts(body)) assert(answer.includes(text), `${text} is in ${answer}`);
    for (const among of ["li", ".picture "]) {
      assert.deepEqual(await states(page, among), { token: "done", exchange, backend: "done", verify: "done", answer: "done" });
    }
    const shown = await steps(page);
    for (const [at, name] of ["token", "exchange", "backend", "verify"].entries()) {
      const time = Number(times.match(new RegExp(`\\b${name};dur=([\\d.]+)`))?.[1]);
      assert.equal(shown[at], Number.isNaN(time) ? "not used" : `${time < 10 ? time.toFixed(2) : Math.round(time)} ms`);
    }
    assert.match(shown[4], /^\d[\d.]* ms in all$/);
    assert.match(await page.locator("li").first().innerText(), /This time it came from x-vercel-oidc-token\./);
    assert.doesNotMatch(await page.content(), /eyJ/, "a token is nowhere in the page");
  });
}

for (const [name, code, status] of [
  ["from another environment", "forbidden", 403],
  ["for another audience", "invalid_token", 401],
  ["forged", "invalid_token", 401],
]) {
  await check(`a token that is ${name} is refused, with the reason and an explanation`, { refused: true }, async (page) => {
    await open(page);
    const response = await press(page, refusals(page).getByRole("button", { name }));
    const body = await response.json();
    const shown = await panel(page).innerText();
    assert(shown.startsWith("The call was refused") && shown.includes(unbroken(body.detail)), shown);
    assert.equal(await panel(page).locator(".local").innerText(), unbroken(response.headers()["x-local-explanation"]));
    assert.deepEqual(await panel(page).locator("dd").allTextContents(), ["backend_refused", "502", String(status), code]);
    for (const among of ["li", ".picture "]) {
      assert.deepEqual(await states(page, among), { token: "done", exchange: "skipped", backend: "done", verify: "failed", answer: "failed" });
    }
    assert.equal((await steps(page))[3], "refused");
    assert.doesNotMatch(await page.content(), /eyJ/, "a token is nowhere in the page");
    await press(page, primary(page));
    assert.match(await panel(page).innerText(), /^The backend answered/);
  });
}

await check("an expired token is not sent, and the page says so", { refused: true }, async (page) => {
  await open(page);
  const response = await press(page, refusals(page).getByRole("button", { name: "expired" }));
  const body = await response.json();
  const shown = await panel(page).innerText();
  assert(shown.startsWith("The call failed") && shown.includes(unbroken(body.detail)), shown);
  assert.equal(await panel(page).locator(".local").innerText(), unbroken(response.headers()["x-local-explanation"]));
  assert.deepEqual(await panel(page).locator("dd").allTextContents(), ["token_unavailable", "500"]);
  for (const among of ["li", ".picture "]) {
    assert.deepEqual(await states(page, among), { token: "failed", exchange: "skipped", backend: "skipped", verify: "skipped", answer: "skipped" });
  }
});

for (const [name, answer, times, expected] of [
  ["no token", { code: "token_unavailable", detail: "Run `vercel env pull`." }, "", ["failed", "skipped", "skipped", "skipped", "skipped"]],
  ["no exchange", { code: "token_unavailable", detail: "The exchange is down." }, "token;dur=1", ["done", "failed", "skipped", "skipped", "skipped"]],
  ["no backend", { code: "backend_unreachable", detail: "Check `BACKEND_URL`." }, "token;dur=1, backend;dur=2000", ["done", "skipped", "failed", "skipped", "skipped"]],
  ["a slow backend", { code: "backend_timeout", detail: "It did not answer." }, "token;dur=1, backend;dur=10000", ["done", "skipped", "failed", "skipped", "skipped"]],
  ["a backend without keys", { code: "backend_unavailable", detail: "Try again.", backend_status: 503, backend_code: "keys_unavailable" }, "token;dur=1, backend;dur=3", ["done", "skipped", "done", "skipped", "failed"]],
  ["an error of the backend", { code: "backend_error", detail: "It answered 500.", backend_status: 500 }, "token;dur=1, backend;dur=3", ["done", "skipped", "done", "skipped", "failed"]],
  ["a refusal without a code", { code: "backend_refused", detail: "Something else answered.", backend_status: 401 }, "token;dur=1, backend;dur=3", ["done", "skipped", "done", "skipped", "failed"]],
]) {
  await check(`${name}: the step that failed, and what to do`, { refused: true }, async (page) => {
    await open(page);
    const headers = times ? { "server-timing": times } : {};
    await page.route("**/api/call", (route) => route.fulfill({ status: 502, json: answer, headers, contentType: "application/problem+json" }));
    await press(page, primary(page));
    const shown = await panel(page).innerText();
    assert(shown.startsWith(answer.code === "backend_refused" ? "The call was refused" : "The call failed"), shown);
    assert(shown.includes(unbroken(answer.detail)), shown);
    for (const among of ["li", ".picture "]) {
      const seen = await states(page, among);
      assert.deepEqual(["token", "exchange", "backend", "verify", "answer"].map((hop) => seen[hop]), expected);
    }
  });
}

for (const [name, json] of [
  ["an object in objects", { a: { b: { c: { d: { e: { f: { g: 1 } } } } } }, empty: {}, no: null }],
  ["an array", [1, "two", { three: 3 }]],
  ["a text", "hello"],
  ["a number", 42],
  ["null", null],
]) {
  await check(`any JSON is shown: ${name}`, {}, async (page) => {
    await open(page);
    await page.route("**/api/call", (route) => route.fulfill({ status: 200, body: JSON.stringify(json), contentType: "application/json" }));
    await press(page, primary(page));
    const shown = await panel(page).innerText();
    assert.match(shown, /^The backend answered/);
    const expected = typeof json === "object" && json !== null && !Array.isArray(json) ? ["a", "b", "c", "d", "e", '{"g":1}', "{}", "null"] : texts(json);
    for (const text of expected) assert(shown.includes(text), `${text} is in ${shown}`);
  });
}

await check("an answer that is not JSON and a missing answer are reported", { refused: true }, async (page) => {
  await open(page);
  await page.route("**/api/call", (route) => route.fulfill({ status: 500, body: "<h1>Crashed</h1>", contentType: "text/html" }));
  await press(page, primary(page));
  assert.match(await panel(page).innerText(), /gave no reason.*\n+status\n500/s);
  await page.unroute("**/api/call");
  await page.route("**/api/call", (route) => route.abort());
  await primary(page).click();
  await panel(page).getByText("can’t be reached").waitFor();
});

await check("markup in an answer is text", { refused: true, complains: /TrustedHTML/ }, async (page) => {
  await open(page);
  const markup = "<img src=x onerror=document.title='taken'><b>bold</b>";
  for (const [status, json] of [[200, { message: markup, caller: { subject: markup } }], [502, { code: markup, detail: markup }]]) {
    await page.route("**/api/call", (route) => route.fulfill({ status, json }));
    await press(page, primary(page));
    assert((await panel(page).innerText()).includes(markup));
    assert.equal(await panel(page).locator("img, b").count(), 0);
    await page.unroute("**/api/call");
  }
  // The browser forbids markup (Trusted Types).
  await assert.rejects(page.evaluate((text) => { document.body.innerHTML = text; }, markup), /TrustedHTML/);
});

await check("the steps light up in order", { reducedMotion: "no-preference" }, async (page) => {
  await open(page);
  await withToken(page, "exchanged");
  await page.evaluate(() => {
    window.seen = [];
    new MutationObserver((changes) => {
      for (const { target } of changes) if (target.dataset.state) window.seen.push([target.dataset.hop, performance.now()]);
    }).observe(document.querySelector("ol"), { subtree: true, attributeFilter: ["data-state"] });
  });
  await press(page, primary(page));
  const seen = await page.evaluate(() => window.seen);
  assert.deepEqual(seen.map(([hop]) => hop), ["token", "exchange", "backend", "verify", "answer"]);
  assert(seen.every(([, time], at) => at === 0 || time - seen[at - 1][1] > 100), String(seen));
});

await check("one call at a time", {}, async (page) => {
  await open(page);
  let calls = 0;
  page.on("request", (request) => { calls += request.url().includes("/api/call"); });
  await page.evaluate(() => { for (let clicks = 0; clicks < 3; clicks += 1) document.querySelector("button").click(); });
  await panel(page).getByRole("heading").waitFor();
  assert.equal(calls, 1);
});

await check("by keyboard alone", { refused: true }, async (page) => {
  await open(page);
  const focused = () => page.evaluate(() => document.activeElement.textContent);
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Make the call");
  assert.equal(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "solid", "the focus is visible");
  await page.keyboard.press("Enter");
  await panel(page).getByText("The backend answered").waitFor();
  assert.equal(await focused(), "Make the call", "the focus stays");
  await refusals(page).waitFor();
  const order = [];
  for (let presses = 0; presses < 5; presses += 1) {
    await page.keyboard.press("Tab");
    order.push(await focused());
  }
  assert.deepEqual(order, ["Open /api/call", "expired", "from another environment", "for another audience", "forged"]);
  await page.keyboard.press("Space");
  await panel(page).getByRole("heading", { name: "The call was refused" }).waitFor();
});

await check("without the stand-in, the page offers no invalid token", {}, async (page) => {
  let asked;
  await page.route(`${origin}/`, async (route) => {
    if (route.request().method() !== "HEAD") return route.continue();
    asked = true;
    return route.fulfill({ status: 200, headers: {} });
  });
  await open(page);
  await press(page, primary(page));
  assert(asked && !(await refusals(page).isVisible()));
});

await check("without JavaScript, the page has a link and no dead button", { javaScriptEnabled: false, complains: /status of 404/ }, async (page) => {
  await open(page);
  assert.equal(await page.locator("button:visible, [role=status]:visible").count(), 0);
  assert(await page.getByRole("heading", { name: "What happens, step by step" }).isVisible());
  // Chromium requests an icon for a page of JSON.
  await page.getByRole("link", { name: "/api/call" }).click();
  await page.waitForURL("**/api/call");
  JSON.parse(await page.locator("body").innerText());
});

for (const colorScheme of ["light", "dark"]) {
  for (const [width, height] of [[320, 700], [360, 780], [768, 1024], [1440, 900]]) {
    await check(`${width} px, ${colorScheme}: everything fits, and axe finds nothing`, { colorScheme, viewport: { width, height }, refused: true }, async (page) => {
      await open(page);
      await refusals(page).waitFor();
      for (const [state, button] of [["idle"], ["accepted", primary(page)], ["refused", refusals(page).getByRole("button", { name: "environment" })]]) {
        if (button) await press(page, button);
        await page.mouse.move(0, 0);
        const overflow = await page.evaluate(() => [...document.querySelectorAll("body, body *")].filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth).map((one) => one.outerHTML.slice(0, 80)));
        assert.deepEqual(overflow, [], "nothing overflows");
        await page.screenshot({ path: new URL(`${width}-${colorScheme}-${state}.png`, shots).pathname, fullPage: true });
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => window.axe.run());
        assert.deepEqual(violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}: ${node.failureSummary}`)), []);
      }
    });
  }
}

await browser.close();
program.kill();
console.log(`${passed} passed, ${failed} failed, 0 skipped`);
process.exitCode = failed ? 1 : 0;
