// The matrix product, in the fastest way that works here, and numbers of half precision.

// --- the matrix product ------------------------------------------------------------------------------

// c = a b: m rows of a, k values deep, times the panels of b, into n columns of c.
function plainProduct(heap) {
  return (a, lda, b, c, ldc, m, k, n) => {
    for (let j = 0; j < n; j += 8, b += 8 * k) {
      for (let i = 0; i < m; i += 1) {
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        for (let x = a + i * lda, y = b; y < b + 8 * k; x += 1, y += 8) {
          const v = heap[x];
          s0 += v * heap[y]; s1 += v * heap[y + 1]; s2 += v * heap[y + 2]; s3 += v * heap[y + 3];
          s4 += v * heap[y + 4]; s5 += v * heap[y + 5]; s6 += v * heap[y + 6]; s7 += v * heap[y + 7];
        }
        const z = c + i * ldc + j;
        heap[z] = s0; heap[z + 1] = s1; heap[z + 2] = s2; heap[z + 3] = s3;
        heap[z + 4] = s4; heap[z + 5] = s5; heap[z + 6] = s6; heap[z + 7] = s7;
      }
    }
  };
}

function wasmProduct(code, memory) {
  const bytes = Uint8Array.from(atob(code), (letter) => letter.charCodeAt(0));
  const made = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  const { multiply } = made.exports;
  return (a, lda, b, c, ldc, m, k, n) => multiply(4 * a, 4 * lda, 4 * b, 4 * c, 4 * ldc, m, k, n);
}

// Multiplies small matrices and compares: a kernel that answers wrongly is not taken.
function checkProduct(heap, product) {
  for (let i = 0; i < 96; i += 1) heap[i] = i % 7;
  product(0, 8, 32, 96, 8, 4, 8, 8);
  for (let i = 0; i < 32; i += 1) {
    let sum = 0;
    for (let k = 0; k < 8; k += 1) sum += heap[8 * (i >> 3) + k] * heap[32 + 8 * k + (i % 8)];
    if (heap[96 + i] !== sum) throw new Error(`it multiplies wrongly: ${heap[96 + i]} for ${sum}`);
  }
  heap.fill(0, 0, 128);
}

// The fastest kernel that works here. `kernels`: kind -> base64, fastest first; `tried` says why others
// were not taken.
function chooseKernel(kernels, values) {
  const tried = [];
  for (const [kind, code] of Object.entries(kernels)) {
    try {
      const memory = new WebAssembly.Memory({ initial: Math.ceil((4 * values) / 65536) });
      const heap = new Float32Array(memory.buffer);
      const product = wasmProduct(code, memory);
      checkProduct(heap, product);
      return { kind, heap, product, tried };
    } catch (error) {
      tried.push(`${kind}: ${error.message}`);
    }
  }
  const heap = new Float32Array(values);
  return { kind: "JavaScript", heap, product: plainProduct(heap), tried };
}

// --- numbers -----------------------------------------------------------------------------------------

// Base64 as bytes, by a loop: `Uint8Array.from` takes a hundred times as long.
function bytesOf64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// Half precision as single, by a table. Copies first: a DataView from a notebook may begin anywhere.
function fromHalf(bytes) {
  const halves = new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const table = new Float32Array(65536);
  for (let i = 0; i < 65536; i += 1) {
    const exponent = (i >> 10) & 31;
    const part = i & 1023;
    const size = exponent === 0 ? part * 2 ** -24 : (1 + part / 1024) * 2 ** (exponent - 15);
    table[i] = i & 32768 ? -size : size;
  }
  const values = new Float32Array(halves.length);
  for (let i = 0; i < values.length; i += 1) values[i] = table[halves[i]];
  return values;
}
