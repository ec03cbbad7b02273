-- The workloads of wrk: `wrk -s load.lua URL -- WORKLOAD START`. suite.py creates the rows.
local workload, n, created

function init(args)
  workload, n, created = args[1], tonumber(args[2]), 0
  math.randomseed(n)
end

local lists = {
  ten = "?page_size=10",
  hundred = "?page_size=100",
  filtered = "?is_active=false&page_size=10",
  deep = "?page=5000&page_size=10",
  search = "?q=%EB%B2%88%EC%97%AD&page_size=10",
}
local project = '{"name": "made by the benchmark", "description": "a new one", '
  .. '"is_active": true, "attributes": {"team": "core", "cost": 7}}'
local json = {["Content-Type"] = "application/json"}

local function id(number)
  return string.format("/00000000-0000-7000-8000-%012d", 100000 + number)
end

local keys = {"name", "created_at", "updated_at", "is_active"}
local filters = {
  "is_active=true", "name=x", "created_at%5Bgt%5D=2026-01-01T00:00:00Z",
  "updated_at%5Blt%5D=2026-01-01T00:00:00Z", "attributes=%7B%22team%22:%22core%22%7D",
}
local bad = {
  "?page=0", "?sort=owner", "?cursor=none", "?is_active=1", "?unknown=1", "/not-an-id",
}

-- One of about ten thousand list queries, so that the caches of statements are always full.
local function random_query()
  local parts = {"count=none"}
  for _, filter in ipairs(filters) do
    if math.random(2) == 1 then parts[#parts + 1] = filter end
  end
  local first, second = math.random(4), math.random(4)
  local sort = (math.random(2) == 1 and "-" or "") .. keys[first]
  if first ~= second then sort = sort .. "," .. keys[second] end
  parts[#parts + 1] = "sort=" .. sort
  return "?" .. table.concat(parts, "&")
end

function request()
  if lists[workload] then
    return wrk.format("GET", "/api/v1/projects" .. lists[workload])
  elseif workload == "forms" then
    return wrk.format("GET", "/api/v1/projects" .. random_query())
  elseif workload == "bad" then
    return wrk.format("GET", "/api/v1/projects" .. bad[math.random(#bad)])
  elseif workload == "one" then
    return wrk.format("GET", "/api/v1/projects" .. id(math.random(0, 99999)))
  elseif workload == "change" then
    -- Each project only once, because If-Match is "1": 7919 and 100 000 have no common factor.
    n = (n + 7919) % 100000
    local headers = {["Content-Type"] = "application/json", ["If-Match"] = '"1"'}
    return wrk.format("PATCH", "/api/v1/projects" .. id(n), headers, '{"description": "changed"}')
  end
  created = created + 1
  local headers = json
  if workload == "keyed" then
    headers = {["Content-Type"] = "application/json", ["Idempotency-Key"] = n .. "-" .. created}
  end
  return wrk.format("POST", "/api/v1/projects", headers, project)
end
