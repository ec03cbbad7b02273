-- The work that wrk does: `wrk -s load.lua URL -- WORK START`. Ids are those that suite.py fills in.
local work, n, made

function init(args)
  work, n, made = args[1], tonumber(args[2]), 0
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

function request()
  if lists[work] then
    return wrk.format("GET", "/api/v1/projects" .. lists[work])
  elseif work == "one" then
    return wrk.format("GET", "/api/v1/projects" .. id(math.random(0, 99999)))
  elseif work == "change" then
    -- Each project once, as all are at version 1: 100 000 and the step have no common factor.
    n = (n + 7919) % 100000
    local headers = {["Content-Type"] = "application/json", ["If-Match"] = '"1"'}
    return wrk.format("PATCH", "/api/v1/projects" .. id(n), headers, '{"name": "changed"}')
  end
  made = made + 1
  local headers = json
  if work == "keyed" then
    headers = {["Content-Type"] = "application/json", ["Idempotency-Key"] = n .. "-" .. made}
  end
  return wrk.format("POST", "/api/v1/projects", headers, project)
end
