// Calls of a member's JSON gateway. Bytes are base64 and 64-bit numbers are strings, as in the gateway.

export class Failure extends Error {
  constructor(message, code) {
    super(message);
    this.code = code; // gRPC's
  }
  // Whoever calls has to sign in, once or again.
  get signIn() {
    return this.code === 16 || /user name is empty|invalid auth token|revision of auth store is old/.test(this.message);
  }
}

export class API {
  constructor() {
    this.user = sessionStorage.getItem("user") || "";
    this.token = sessionStorage.getItem("token") || "";
  }

  async signIn(user, password) {
    const r = await this.post("/v3/auth/authenticate", {name: user, password});
    this.remember(user, r.token);
  }

  signOut() { this.remember("", ""); }

  remember(user, token) {
    this.user = user;
    this.token = token;
    for (const [key, value] of [["user", user], ["token", token]]) {
      if (value) sessionStorage.setItem(key, value);
      else sessionStorage.removeItem(key);
    }
  }

  request(path, body, signal) {
    const headers = {"Content-Type": "application/json"};
    if (this.token && !path.endsWith("/authenticate")) headers.Authorization = this.token;
    return fetch(path, {method: "POST", headers, body, signal, cache: "no-store", credentials: "same-origin"});
  }

  async post(path, message = {}, signal) {
    const r = await this.request(path, JSON.stringify(message), signal);
    const text = await r.text();
    let body;
    try { body = JSON.parse(text); } catch { throw new Failure(text.trim() || r.statusText, -1); }
    if (!r.ok) throw new Failure(body.message || body.error || r.statusText, body.code);
    return body;
  }

  // stream sends messages and yields what is answered, until signal.
  async *stream(path, messages, signal) {
    const r = await this.request(path, messages.map((m) => JSON.stringify(m)).join("\n"), signal);
    const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const {value, done} = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines.filter(Boolean)) {
          const m = JSON.parse(line);
          if (m.error) throw new Failure(m.error.message || String(m.error), m.error.code ?? m.error.grpc_code);
          yield m.result;
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }
}
