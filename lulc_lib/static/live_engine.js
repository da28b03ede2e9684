// Runs the network in a worker, so that the page never waits for it. Where a worker is refused, it runs
// in the page itself. Python puts `engineCode`, which holds product.js and vit.js, before this file.

// Answers messages: the first makes the network, the others run it.
function serveEngine({ makeVit, fromHalf, bytesOf64 }) {
  let vit = null;
  return (message) => {
    const start = performance.now();
    if (message.spec) {
      const { weights, spec } = message;
      const wanted = 2 * spec.tensors.reduce((sum, [, count]) => sum + count, 0);
      const held = typeof weights === "string" ? Math.floor(0.75 * weights.trim().length) : weights.length;
      if (held < wanted) throw new Error(`this file was cut: it holds ${held.toLocaleString("en")} of ${wanted.toLocaleString("en")} bytes of weights. Copy or load it again.`);
      vit = makeVit(message.spec, fromHalf(typeof weights === "string" ? bytesOf64(weights) : weights), message.kernels);
      return { kind: vit.kind, tried: vit.tried };
    }
    const logits = vit.run(message.image);
    const predicted = logits.indexOf(Math.max(...logits));
    const maps = message.maps.map(({ method, target, against }) => {
      const direction = new Float32Array(logits.length);
      const asked = target ?? predicted;
      direction[asked] += 1;
      if (against !== null && against !== asked) direction[against] -= 1; // why one, not the other
      return vit.map(method, direction);
    });
    const attention = message.attention === null ? null : vit.attention(message.attention);
    return { logits, maps, attention, ms: performance.now() - start };
  };
}

// `setup`: spec, weights (base64 or bytes) and kernels. The engine says which kernel it took and where
// it runs, and `ask(message)` promises an answer; one message at a time is in work.
async function startEngine(setup) {
  try {
    return await inWorker(setup);
  } catch (error) {
    const serve = serveEngine(engineCode());
    const made = serve(setup);
    const inPage = async (message) => {
      await new Promise((go) => setTimeout(go)); // the page draws and answers clicks between two runs
      return serve(message);
    };
    return { ...made, where: "in the page", tried: [`worker: ${error.message}`, ...made.tried], ask: inPage, end() {} };
  }
}

function inWorker(setup) {
  return new Promise((resolve, reject) => {
    const code = `const serve = (${serveEngine})((${engineCode})());
onmessage = ({ data }) => { try { postMessage({ answer: serve(data) }); } catch (error) { postMessage({ error: error.message }); } };`;
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const worker = new Worker(url);
    const waiting = [];
    const fail = (message) => {
      worker.terminate();
      reject(new Error(message));
      waiting.splice(0).forEach((one) => one.reject(new Error(message)));
    };
    worker.onerror = (event) => fail(event.message || "the page's policy refuses it");
    worker.onmessage = ({ data }) => {
      const one = waiting.shift();
      if (data.error) one.reject(new Error(data.error));
      else one.resolve(data.answer);
    };
    const ask = (message) => new Promise((done, failed) => {
      waiting.push({ resolve: done, reject: failed });
      worker.postMessage(message);
    });
    ask(setup).then(
      (made) => resolve({ ...made, where: "in a worker", ask, end: () => { worker.terminate(); URL.revokeObjectURL(url); } }),
      (error) => fail(error.message),
    );
  });
}
