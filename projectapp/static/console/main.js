// The frame of the console: the header, the views, the panel, and what covers them.
import { html, render, useLayoutEffect, useState } from "./preact-htm.js";
import { ApiError, isOpen, onCallerEnd, session } from "./api.js";
import { Charts } from "./charts.js";
import { useCommands } from "./commands.js";
import { feed, followPage } from "./feed_tabs.js";
import { SearchBox } from "./filters.js";
import { Help } from "./help.js";
import { useKeys } from "./keys.js";
import { List } from "./list.js";
import { Live } from "./live.js";
import { Menu } from "./menu.js";
import { Notices } from "./notices.js";
import { Palette } from "./palette.js";
import { Panel } from "./panel.js";
import { canCreate, canRead, currentResource, listCommand, resourceLabel, resources } from "./schema.js";
import { loadSession, signInByLink, takeTokenFromUrl } from "./session.js";
import { OfferedSignIn, SignIn } from "./sign_in.js";
import { changeSettings, config, createStore, go, settings, url, useStore } from "./store.js";
import { t } from "./texts.js";
import { Boundary, Button, copyText, Empty, Keys, Link, toast, Toasts } from "./ui.js";
import { undo } from "./undo.js";

const VIEWS = ["list", "live", "charts"];

/** The history is a view of the panel: the list stays beside it. */
const viewOf = (state) => (VIEWS.includes(state.view) ? state.view : "list");

/** The colour and the shape say the same, and the text says it to everybody. */
function LiveDot() {
  const { state } = useStore(feed);
  const label = t(`live.${state}`);
  return html`<span class=${`live-dot ${state}`} role="img" aria-label=${label} title=${label}></span>`;
}

function ResourceSwitch({ resource }) {
  if (resources.length === 1) return html`<h1>${resourceLabel(resource)}</h1>`;
  return html`<h1 class="resource-switch">
    <select
      aria-label=${t("resource")}
      value=${resource.name}
      onChange=${(event) => {
        if (!go({ resource: event.target.value }, { reset: true })) event.target.value = resource.name;
      }}
    >
      ${resources.map(
        (item) => html`<option key=${item.name} value=${item.name}>${resourceLabel(item)}</option>`,
      )}
    </select>
  </h1>`;
}

function Header({ resource, view, open, onPalette, onHelp }) {
  return html`<header class="top">
    <span class="brand" translate="no">projectapp</span>
    <${ResourceSwitch} resource=${resource} />
    <nav class="views" aria-label=${t("views")}>
      ${VIEWS.map(
        (name) => html`<${Link}
          key=${name}
          to=${{ view: name === "list" ? null : name, id: null }}
          aria-current=${name === view ? "page" : undefined}
          >${t(`view.${name}`)}<//
        >`,
      )}
    </nav>
    <div class="search-slot">
      ${open && view === "list" && html`<${SearchBox} key=${resource.name} resource=${resource} />`}
    </div>
    <div class="top-actions">
      <${LiveDot} />
      <${Button}
        kind="quiet"
        icon="command"
        class="palette-button"
        title=${t("palette_open")}
        onClick=${onPalette}
      >
        <span class="hidden">${t("palette_open")}</span><${Keys} keys="Ctrl+K" />
      <//>
      <${Menu} onHelp=${onHelp} />
    </div>
  </header>`;
}

// Another caller sees other rows: the view and the panel then begin anew. After an expired sign-in the
// panel stays, because it is often the same person with another token: what was typed is not lost.
const screenNumbers = createStore({ view: 0, panel: 0 });
onCallerEnd(({ state }) =>
  screenNumbers.set(({ view, panel }) => ({
    view: view + 1,
    panel: state === "expired" ? panel : panel + 1,
  })),
);

function Work({ resource, view, id }) {
  useStore(session); // the scopes
  const numbers = useStore(screenNumbers);
  if (!canRead(resource)) {
    return html`<${Empty} title=${t("error.403")} text=${t("error.scope", { scope: resource.scope_read })} />`;
  }
  const label = resourceLabel(resource);
  return html`<div class=${id ? "work has-panel" : "work"}>
    <${Boundary} key=${`${view} ${resource.name} ${numbers.view}`}>
      ${view === "list" && html`<${List} resource=${resource} label=${label} />`}
      ${view === "live" && html`<${Live} resource=${resource} />`}
      ${view === "charts" && html`<${Charts} />`}
    <//>
    ${id &&
    html`<${Boundary} key=${`${resource.name} ${id} ${numbers.panel}`}><${Panel} resource=${resource} id=${id} /><//>`}
  </div>`;
}

function Frame({ isSigningIn }) {
  const state = useStore(url);
  const { language, theme } = useStore(settings);
  const who = useStore(session);
  const [dialog, setDialog] = useState(null); // "palette", "help" or null
  const resource = currentResource(state);
  const label = resourceLabel(resource);
  const view = viewOf(state);
  // The screens do not wait for the answer to who is signed in: their requests do, if they must.
  // Once they are mounted they stay, also under the dialog to sign in, except after a sign-out.
  const [isMounted, setMounted] = useState(isOpen(who) || !isSigningIn);
  if (isOpen(who) && !isMounted) setMounted(true);

  useLayoutEffect(() => {
    const root = document.documentElement;
    root.lang = language;
    root.dataset.theme = theme;
    document.title = `${label} · projectapp`;
  }, [language, theme, label]);

  const show = (name) => () => setDialog(name);
  const openView = (name) => () => go({ view: name === "list" ? null : name, id: null });
  useKeys({
    "Ctrl+k": show("palette"),
    "?": show("help"),
    "Ctrl+z": () => undo(),
    "g l": openView("list"),
    "g v": openView("live"),
    "g c": openView("charts"),
    "g h": () => (state.id && state.id !== "new" ? void go({ view: "history" }) : false),
  });
  useCommands([
    ...VIEWS.map((name) => ({
      group: "go",
      label: t(`view.${name}`),
      keys: `g ${{ list: "l", live: "v", charts: "c" }[name]}`,
      run: openView(name),
    })),
    ...resources
      .filter((item) => item !== resource)
      .map((item) => ({
        group: "go",
        label: resourceLabel(item),
        run: () => go({ resource: item.name }, { reset: true }),
      })),
    ...(canCreate(resource)
      ? [
          {
            group: "do",
            label: t("new_row", { resource: label }),
            keys: "n",
            run: () => go({ id: "new", view: null }),
          },
        ]
      : []),
    { group: "do", label: t("copy_curl"), run: () => copyText(listCommand(resource)) },
    { group: "do", label: t("help"), keys: "?", run: show("help") },
    ...[
      ["ko", "한국어"],
      ["en", "English"],
    ]
      .filter(([code]) => code !== language)
      .map(([code, name]) => ({
        group: "do",
        label: `${t("language")}: ${name}`,
        run: () => changeSettings({ language: code }),
      })),
    ...["auto", "light", "dark"]
      .filter((name) => name !== theme)
      .map((name) => ({
        group: "do",
        label: `${t("theme")}: ${t(`theme.${name}`)}`,
        run: () => changeSettings({ theme: name }),
      })),
  ]);

  const skip = (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  };
  return html`<a class="skip" href="#main" onClick=${skip}>${t("skip")}</a>
    <${Header} resource=${resource} view=${view} open=${isMounted} onPalette=${show("palette")} onHelp=${show("help")} />
    <main id="main" tabindex="-1">
      <${Notices} />
      ${isMounted && who.state !== "signed_out" && html`<${Work} resource=${resource} view=${view} id=${state.id} />`}
    </main>
    ${["expired", "signed_out"].includes(who.state) && html`<${SignIn} key="sign-in" />`}
    <${OfferedSignIn} key="offered" />
    ${dialog === "palette" && html`<${Palette} key="palette" onClose=${show(null)} />`}
    ${dialog === "help" && html`<${Help} key="help" resource=${resource} onClose=${show(null)} />`}
    <${Toasts} />`;
}

// Requests of a screen that has no place for its errors.
addEventListener("unhandledrejection", (event) => {
  const { reason } = event;
  if (reason?.name === "AbortError") event.preventDefault();
  if (!(reason instanceof ApiError)) return;
  event.preventDefault();
  toast({ kind: "error", error: reason });
});

async function startSession(token) {
  try {
    if (token && config.auth.length) await signInByLink(token);
  } catch (error) {
    toast({ kind: "error", text: t("sign_in_failed"), error });
  }
  if (session.get().state === "unknown") await loadSession();
}

const firstToken = takeTokenFromUrl();
const app = document.getElementById("app");
app.replaceChildren(); // It said that the page is loading.
render(html`<${Frame} isSigningIn=${Boolean(firstToken)} />`, app);
startSession(firstToken);
addEventListener("load", followPage); // The first load does not wait for the feed.
// The URL with a token was opened in a tab that has this page already.
addEventListener("hashchange", () => {
  const token = takeTokenFromUrl();
  if (token) startSession(token);
});
