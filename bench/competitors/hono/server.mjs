// The same API with Hono, on Node's cluster, and postgres.js.
import cluster from "node:cluster";
import { createHash, randomUUID } from "node:crypto";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { HTTPException } from "hono/http-exception";
import postgres from "postgres";

const PROJECTS = "/api/v1/projects";
const KEY_EXISTS = new Error("This key exists.");

if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
} else {
  serve({ fetch: api().fetch, hostname: "127.0.0.1", port: Number(process.env.PORT) });
}

function connect() {
  // JavaScript's URL needs a host. libpq's URL of a socket has none, but the parameter "host".
  const url = new URL(process.env.DATABASE_URL.replace("@/", "@localhost/"));
  return postgres({
    host: url.searchParams.get("host") ?? url.hostname,
    port: Number(url.searchParams.get("port") ?? (url.port || 5432)),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: url.pathname.slice(1),
    max: 4,
  });
}

const isText = (value, minLength, maxLength) =>
  typeof value === "string" && [...value].length >= minLength && [...value].length <= maxLength;
const rules = {
  __proto__: null,
  name: (value) => isText(value, 1, 200),
  description: (value) => value === null || isText(value, 0, 1000),
  is_active: (value) => typeof value === "boolean",
  attributes: (value) => value !== null && typeof value === "object" && !Array.isArray(value),
};

function validate(text, defaults) {
  try {
    const values = { ...defaults, ...JSON.parse(text) };
    if (Object.entries(values).every(([name, value]) => rules[name](value))) return values;
  } catch {
    // Not JSON, or an unknown field.
  }
  throw new HTTPException(400);
}

function api() {
  const app = new Hono();
  const sql = connect();
  // JavaScript's Date has no microseconds.
  const time = (name) =>
    sql`to_char(${sql(name)} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS ${sql(name)}`;
  const fields = sql`id, name, description, is_active, attributes, version,
    ${time("created_at")}, ${time("updated_at")}, owner`;
  const select = (id) => sql`SELECT ${fields} FROM projects WHERE id = ${id}`;
  const insert = (sql, project) => sql`INSERT INTO projects ${sql(project)} RETURNING ${fields}`;
  const single = (c, project) => c.json(project, 200, { ETag: `"${project.version}"` });
  const created = (c, { id, version }, body) =>
    c.body(body, 201, {
      "Content-Type": "application/json",
      ETag: `"${version}"`,
      Location: `${PROJECTS}/${id}`,
    });

  app.get(PROJECTS, async (c) => {
    const { page: pageText = "1", page_size = "10", is_active, q } = c.req.query();
    const [page, size] = [Number(pageText), Number(page_size)];
    if (!Number.isInteger(page) || !Number.isInteger(size) || page < 1 || size < 1 || size > 100)
      throw new HTTPException(400);
    const like = q && `%${q.replace(/[\\%_]/g, "\\$&")}%`;
    const where = sql`WHERE true
      ${is_active ? sql`AND is_active = ${is_active === "true"}` : sql``}
      ${like ? sql`AND (name ILIKE ${like} OR description ILIKE ${like})` : sql``}`;
    const [items, [{ total }]] = await Promise.all([
      sql`SELECT ${fields} FROM projects ${where} ORDER BY projects.created_at DESC, id DESC
        LIMIT ${size} OFFSET ${(page - 1) * size}`,
      sql`SELECT count(*)::int AS total FROM projects ${where}`,
    ]);
    return c.json({ items, total, page, page_size: size });
  });

  app.post(PROJECTS, async (c) => {
    const text = await c.req.text();
    const defaults = { name: null, description: null, is_active: true, attributes: {} };
    const project = { id: randomUUID(), ...validate(text, defaults) };
    const key = c.req.header("Idempotency-Key");
    if (key === undefined) {
      const [row] = await insert(sql, project);
      return created(c, row, JSON.stringify(row));
    }
    const fingerprint = createHash("sha256").update(text).digest();
    try {
      const row = await sql.begin(async (sql) => {
        const [row] = await insert(sql, project);
        const newKey = { scope: "", key, fingerprint, created_at: sql`now()`, id: row.id };
        const answer = { version: row.version, body: JSON.stringify(row) };
        const { count } = await sql`
          INSERT INTO idempotency_keys ${sql({ ...newKey, ...answer })} ON CONFLICT DO NOTHING`;
        if (count === 0) throw KEY_EXISTS;
        return { ...row, ...answer };
      });
      return created(c, row, row.body);
    } catch (error) {
      if (error !== KEY_EXISTS) throw error;
    }
    const [stored] = await sql`SELECT * FROM idempotency_keys WHERE scope = '' AND key = ${key}`;
    if (!fingerprint.equals(stored.fingerprint)) throw new HTTPException(422);
    return created(c, stored, stored.body);
  });

  app.get(`${PROJECTS}/:id{[0-9a-f-]{36}}`, async (c) => {
    const [project] = await select(c.req.param("id"));
    return project ? single(c, project) : c.notFound();
  });

  app.patch(`${PROJECTS}/:id{[0-9a-f-]{36}}`, async (c) => {
    const id = c.req.param("id");
    const values = validate(await c.req.text());
    const etag = c.req.header("If-Match") ?? null;
    const changes = { ...values, version: sql`version + 1`, updated_at: sql`now()` };
    const [project] = await sql`
      UPDATE projects SET ${sql(changes)}
      WHERE id = ${id} AND (${etag}::text IS NULL OR '"' || version || '"' = ${etag})
      RETURNING ${fields}`;
    if (project) return single(c, project);
    throw new HTTPException((await select(id)).length ? 412 : 404);
  });

  return app;
}
