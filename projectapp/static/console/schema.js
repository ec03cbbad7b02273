// The resources that the server declares: their fields, labels and paths. Nothing is listed here.
import { session } from "./api.js";
import { config, listQuery } from "./store.js";
import { hasText, t } from "./texts.js";
import { visibleText } from "./visible_text.js";

export const resources = config.resources;

/** Return the resource that the URL shows: the first one by default. */
export function currentResource(url) {
  return resources.find((resource) => resource.name === url.resource) ?? resources[0];
}

export const fieldOf = (resource, name) => resource.fields.find((field) => field.name === name);

/** Return the fields of a form: the ones that a client can write. */
export const writableFields = (resource) => resource.fields.filter((field) => !field.read_only);

/** Return the field that names a row for people: the first required text, else the first text. */
export function titleField(resource) {
  const texts = resource.fields.filter((field) => field.type === "string");
  return texts.find((field) => field.required) ?? texts.find((field) => !field.read_only);
}

/** Return the name of a row for people, in one line: its title, or its id if the title is empty. */
export function titleOf(resource, row) {
  const field = titleField(resource);
  return visibleText(String((field && row[field.name]) ?? "")) || row.id;
}

const humanize = (name) => {
  const words = name.replace(/_/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
};

/** Return the label of a field. A name without a text of its own becomes words: Due date. */
export function fieldLabel(name) {
  return hasText(`field.${name}`) ? t(`field.${name}`) : humanize(name);
}

export function resourceLabel(resource) {
  const key = `resource.${resource.name}`;
  return hasText(key) ? t(key) : humanize(resource.name);
}

export const itemPath = (resource, id) => `${resource.path}/${encodeURIComponent(id)}`;

/** Return the path of a create. A child needs the id of its parent. */
export const createPath = (resource, parentId) =>
  (resource.create_path ?? resource.path).replace(/\{\w+\}/, encodeURIComponent(parentId));

function hasScope(scope) {
  const { state, scopes } = session.get();
  return state === "none" || !scopes || !scope || scopes.includes(scope);
}

/**
 * May the caller read, write or create rows of the resource? Unknown counts as yes: the server
 * decides. The scopes of a session are all that the caller has: RESOURCE:all includes the others.
 */
export const canRead = (resource) => hasScope(resource.scope_read);
export const canWrite = (resource) => hasScope(resource.scope_write);
export const canCreate = (resource) => canWrite(resource) && resource.create_path !== null;

const curl = (path, ...options) => {
  const address = (location.origin + config.prefix + path).replaceAll("'", "%27");
  const header = config.auth.length ? ['-H "Authorization: Bearer $TOKEN"'] : [];
  return [`curl '${address}'`, ...header, ...options].join(" \\\n  ");
};

/** Return the curl command for the list that the page shows. */
export function listCommand(resource) {
  const query = new URLSearchParams(listQuery()).toString();
  return curl(resource.path + (query && `?${query}`));
}

/** Return the curl command that creates an example of a row. */
export function createCommand(resource) {
  const title = titleField(resource);
  const body = JSON.stringify(title ? { [title.name]: t("list.example") } : {});
  const path = createPath(resource, resource.parent_field ?? "");
  return curl(path, "-H 'Content-Type: application/json'", `-d '${body}'`);
}
