// redlock on one ioredis client; serves the lines that ../README.md describes. Its "threads" are tasks that run
// concurrently in the one thread of Node.
//
//     main.js <port>

import { createInterface } from "node:readline";
import { createRequire } from "node:module";

// What was installed is in the directory of the program's copy or where NODE_PATH says.
const require = createRequire(import.meta.url);
const Redis = require("ioredis");
const Redlock = require("redlock");

const LEASE = 30_000;

// Tries again after 200 ms and up to 100 ms more, its default; without an end, where its default is ten times.
const redlock = new Redlock([new Redis(Number(process.argv[2]), "127.0.0.1")], { retryCount: -1 });

const microseconds = () => Number(process.hrtime.bigint()) / 1e3;

async function work(lock, hot, end) {
  const share = { times: [], longest: 0 };
  for (let before = microseconds(); before < end; ) {
    const held = await redlock.lock(lock, LEASE);
    const acquired = microseconds();
    await held.unlock();
    const after = microseconds();
    const took = (hot ? acquired : after) - before;
    share.longest = Math.max(share.longest, took);
    if (after <= end) share.times.push(took);
    before = after;
  }
  return share;
}

async function block(hot, tasks, milliseconds) {
  const end = microseconds() + milliseconds * 1e3;
  const names = Array.from({ length: tasks }, (_, i) => (hot ? "redlock:hot" : `redlock:own-${i}`));
  const shares = await Promise.all(names.map((name) => work(name, hot, end)));
  const all = Float64Array.from(shares.flatMap((share) => share.times)).sort();
  const part = (share) => (all.length ? all[Math.floor(share * all.length)] : 0).toFixed(1);
  const counts = shares.map((share) => share.times.length);
  const longest = Math.max(...shares.map((share) => share.longest));
  return [all.length, part(0.5), part(0.99), longest.toFixed(1), Math.min(...counts), Math.max(...counts)].join(" ");
}

let passed;

// When the lock was acquired, or before it was released; the clock is CLOCK_MONOTONIC, one for all processes.
async function pass(take) {
  let at = microseconds();
  if (take) {
    passed = await redlock.lock("redlock:passed", LEASE);
    at = microseconds();
  } else {
    await passed.unlock();
  }
  return at.toFixed(1);
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "quit") break;
  const [contender, mode, tasks, milliseconds] = line.split(" ");
  try {
    if (contender !== "redlock") throw new Error("no such contender");
    const passing = mode === "take" || mode === "give";
    console.log(await (passing ? pass(mode === "take") : block(mode === "hot", Number(tasks), Number(milliseconds))));
  } catch (error) {
    console.log(`! ${String(error.message).replaceAll("\n", " ")}`);
  }
}
process.exit(0);
