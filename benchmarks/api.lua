-- wrk's load for benchmarks/api.py: one new upload (or a batch) in every request.
-- Environment: KEY, RUN (makes ids unique), BATCH.
local key, run, batch = os.getenv("KEY"), os.getenv("RUN"), tonumber(os.getenv("BATCH") or "1")
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(_args)
  count = 0
end

function request()
  local items = {}
  for n = 1, batch do
    count = count + 1
    items[n] = string.format(
      '{"upload_id":"%s/%d/%d","image":"https://cdn.example.org/avatars/%d.webp"}', run, id, count, count)
  end
  local body = batch == 1 and items[1] or '{"uploads":[' .. table.concat(items, ",") .. "]}"
  return wrk.format("POST", "/v1/uploads",
    {["content-type"] = "application/json", ["x-api-key"] = key}, body)
end
