// The request in the address's fragment, which browsers do not send to a server: compressed JSON, as base64url.

const MOST = 16 * 2 ** 20; // bytes that a link may grow to

const through = (bytes, stream) => new Blob([bytes]).stream().pipeThrough(stream);

export async function toFragment(state) {
  const packed = through(new TextEncoder().encode(JSON.stringify(state)), new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export async function fromFragment(fragment) {
  const text = atob(fragment.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const chunks = [];
  let size = 0;
  for (const reader = through(bytes, new DecompressionStream("deflate-raw")).getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > MOST) throw new RangeError("the link holds too much");
    chunks.push(value);
  }
  return JSON.parse(await new Blob(chunks).text());
}
