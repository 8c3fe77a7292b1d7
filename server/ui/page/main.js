// The frame of the page: which view is shown, who is signed in, and the looks at all members that views share.
import {h, fill} from "./base/dom.js";
import {API, Failure} from "./base/api.js";
import {hex} from "./base/format.js";
import {Overview} from "./overview.js";
import {Keys} from "./keys.js";
import {Leases} from "./leases.js";
import {Watches} from "./watches.js";

const INTERVAL = 2000; // ms between looks

const views = {overview: ["Overview", Overview], keys: ["Keys", Keys], leases: ["Leases", Leases], watches: ["Watches", Watches]};

class App {
  constructor() {
    this.api = new API();
    this.looks = null; // the last answer of look/all
    this.view = null;
    this.shown = null;
    for (const [id, [, View]] of Object.entries(views)) views[id].push(new View(this));
    addEventListener("hashchange", () => this.route());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.look(); });
    this.look().then(() => this.route());
    setInterval(() => { if (!document.hidden) this.look(); }, INTERVAL);
  }

  get authEnabled() { return Boolean(this.looks?.members.some((m) => m.look?.member?.auth_enabled)); }

  // mayChange: nothing is changed unless a user has signed in, whose rights the store checks.
  get mayChange() { return this.authEnabled && Boolean(this.api.token); }

  // own is the look of the member that serves the page.
  get own() { return this.looks?.members.find((m) => m.id === this.looks.header.member_id)?.look; }

  async look() {
    if (this.looking) return;
    this.looking = true;
    try {
      const r = await this.api.post("/keelson/v1/look/all", {prefixes: 12});
      r.members ||= [];
      this.looks = r;
      this.trouble = "";
      for (const [, , view] of Object.values(views)) view.looked?.(r);
      if (this.needsSignIn) { this.needsSignIn = false; this.route(); }
    } catch (e) {
      this.failed(e);
    } finally {
      this.looking = false;
      this.frame();
    }
  }

  // failed shows an error of a call: at the top, or by asking to sign in.
  failed(e) {
    if (e.name === "AbortError") return;
    if (e instanceof Failure && e.signIn) {
      if (this.api.token) this.api.signOut();
      if (!this.needsSignIn) { this.needsSignIn = true; this.route(); }
      return;
    }
    this.trouble = e.message;
    this.frame();
  }

  route() {
    const [id, ...rest] = decodeURI(location.hash.slice(1)).split("/");
    const view = (views[id] || views.overview)[2];
    if (this.shown && this.shown !== view) this.shown.hide?.();
    this.frame();
    if (this.needsSignIn) {
      this.shown = null;
      fill(document.getElementById("view"), this.signInForm());
      return;
    }
    if (this.shown !== view) fill(document.getElementById("view"), view.el);
    this.shown = view;
    view.show?.(rest.join("/"));
  }

  frame() {
    const current = views[location.hash.slice(1).split("/")[0]] ? location.hash.slice(1).split("/")[0] : "overview";
    fill(document.getElementById("tabs"), Object.entries(views).map(([id, [name]]) =>
      h("a", {href: "#" + id, "aria-current": id === current ? "page" : null}, name)));
    const state = document.getElementById("state");
    if (this.trouble) fill(state, h("span", {class: "bad"}, this.trouble));
    else if (this.looks) fill(state, h("span", {class: "quiet"}, `cluster ${hex(this.looks.header.cluster_id)} · revision ${this.looks.header.revision || 0}`));
    fill(document.getElementById("account"), this.api.token
      ? [h("span", {class: "quiet"}, "signed in as ", h("b", {}, this.api.user)), h("button", {onclick: () => { this.api.signOut(); this.look(); this.route(); }}, "Sign out")]
      : h("span", {class: "quiet"}, this.authEnabled || this.needsSignIn ? "not signed in" : "read-only"));
  }

  signInForm() {
    const user = h("input", {name: "user", autocomplete: "username", required: true, autofocus: true});
    const password = h("input", {name: "password", type: "password", autocomplete: "current-password"});
    const error = h("p", {class: "bad", role: "alert"});
    const submit = async (e) => {
      e.preventDefault();
      try {
        await this.api.signIn(user.value, password.value);
        this.needsSignIn = false;
        await this.look();
        this.route();
      } catch (e) {
        fill(error, e.message);
      }
    };
    return h("div", {class: "panel signin"}, h("h2", {}, "This cluster wants to know who you are"),
      h("form", {onsubmit: submit}, h("label", {}, "User", user), h("label", {}, "Password", password),
        h("button", {class: "main"}, "Sign in"), error));
  }
}

new App();
