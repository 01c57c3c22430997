// Asks the sidecar: node ask.mjs "my card is gone".  SIDECAR names another address.
const sidecar = process.env.SIDECAR ?? "http://127.0.0.1:8090";
const [text] = process.argv.slice(2);
if (!text) {
  console.error("usage: node ask.mjs TEXT");
  process.exit(2);
}

async function intent(words) {
  try {
    const answer = await fetch(`${sidecar}/v1/predict`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text: words, deadline_ms: 1000 }),
      signal: AbortSignal.timeout(2000),
    });
    if (answer.ok) return await answer.json();
    throw new Error(`the sidecar answered ${answer.status}: ${await answer.text()}`);
  } catch (error) {
    // The product goes on as it did before it had a sidecar.
    return { label: null, degraded: true, reason: error.message };
  }
}

const { label, source, certified, degraded, reason } = await intent(text);
console.log(JSON.stringify({ label, source, certified, degraded, reason }));
