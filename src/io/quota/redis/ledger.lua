
-- Applies statements of accounts of one group. KEYS: the group's epoch; then each account, a calendar's with its past.
-- ARGV: replica, how many milliseconds its statements are good for, live replicas; then 15 words per statement: kind
-- (b, c, s), four of the kind (limit and window of a bucket, beginnings of periods), capacity, total, acked, period,
-- outstanding, least, want, spare, floor, seed or nothing.
-- Answers now, then per statement: granted, committed, drained, others, period, fresh, swept.

local MAX_LIMIT = 1000000000000
local MAX_WINDOW = 3600000
local AHEAD = 4
local SHARES = 4
local MAX_SHARERS = 1000000
local WIDTH = 15

local replica = ARGV[1]
local ttl = within(tonumber(ARGV[2]), 1, DAY)
local sharers = within(tonumber(ARGV[3]), 1, MAX_SHARERS)

local function amount(word) return within(tonumber(word), 0, MAX_UNITS) end

local function total(word) return within(tonumber(word), -MAX_UNITS, MAX_UNITS) end

local function statement(key, past, at)
  return {
    key = key, past = past, kind = ARGV[at],
    starts = { tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]) },
    limit = within(tonumber(ARGV[at + 1]), 1, MAX_LIMIT), window = within(tonumber(ARGV[at + 2]), 1, MAX_WINDOW),
    capacity = amount(ARGV[at + 5]), total = total(ARGV[at + 6]), acked = total(ARGV[at + 7]),
    period = tonumber(ARGV[at + 8]), outstanding = amount(ARGV[at + 9]), least = amount(ARGV[at + 10]),
    want = amount(ARGV[at + 11]), spare = amount(ARGV[at + 12]), floor = amount(ARGV[at + 13]),
    seed = ARGV[at + 14] ~= '' and amount(ARGV[at + 14]) or nil,
  }
end

-- Since when the group is known here. The first thing that is written, by a command that a server without memory
-- refuses: then nothing is written at all.
local function epoch()
  local known = tonumber(redis.call('GET', KEYS[1]) or '') or now
  redis.call('SET', KEYS[1], text(known), 'PX', text(MAX_TIME))
  return known
end

local known_for = math.max(0, now - epoch())

-- An upper bound of the time in which so many units drain.
local function time_bound(s, units)
  return math.min(div(units, s.limit) + 1, div(MAX_TIME, s.window)) * s.window
end

local function empty(account)
  set(account, 'L', 0)
  set(account, 'D', 0)
end

local function drain(account, s)
  local elapsed = math.max(0, now - account.A)
  local ahead = math.max(0, account.A - now)
  set(account, 'A', ahead > s.window and now or math.max(account.A, now))
  local drained = math.min(account.D or 0, s.window - 1)
  local whole = div(elapsed, s.window)
  local rest = elapsed - whole * s.window
  local needed = div(account.L, s.limit) + (math.fmod(account.L, s.limit) > 0 and 1 or 0)
  if whole >= needed then return empty(account) end
  local units = account.L - whole * s.limit
  local part = rest * math.fmod(s.limit, s.window) + drained
  local drop = rest * div(s.limit, s.window) + div(part, s.window)
  if drop >= units then return empty(account) end
  set(account, 'L', units - drop)
  set(account, 'D', math.fmod(part, s.window))
end

local function period_at(starts)
  for i = 4, 1, -1 do
    if starts[i] <= now then return starts[i] end
  end
  return starts[2]
end

-- Brings the account to the present, or makes it. False: nobody knows how it stands; then nothing has changed.
local function advance(account, s)
  if s.kind == 'b' then
    if account.L and account.A then
      drain(account, s)
    elseif s.seed or known_for >= time_bound(s, s.capacity) then
      set(account, 'L', s.seed or 0)
      set(account, 'D', 0)
      set(account, 'A', now)
    else
      return false
    end
  elseif s.kind == 'c' then
    -- A clock that fell back does not bring the last period back.
    local present = math.max(period_at(s.starts), account.P or period_at(s.starts))
    local unproven = account.U == 1
    if not account.P or not has(s.starts, account.P) or (unproven and present ~= account.P) then
      if not s.seed then return false end
      begin(account, period_at(s.starts), s.seed)
    elseif present ~= account.P then
      begin(account, present, 0)
    end
    if unproven then set(account, 'U', 0) end
  end
  return true
end

-- Drops what has expired, and, where there are too many replicas for another, the one that expires first. True if
-- somebody else may have used more than is known.
local function sweep(account)
  local gone, live = {}, 0
  for name, entry in pairs(account.entries) do
    if entry.expires > now + AHEAD * ttl then
      entry.expires = now + ttl
      put(account, name, entry)
    end
    if entry.expires <= now then gone[#gone + 1] = name else live = live + 1 end
  end
  table.sort(gone)
  local swept = false
  -- The caller is back, and says what it has used.
  for _, name in ipairs(gone) do swept = bury(account, name) and name ~= replica or swept end
  if live >= MAX_REPLICAS and not account.entries[replica] then
    local first
    for name, entry in pairs(account.entries) do
      local other = first and account.entries[first].expires
      if not first or entry.expires < other or (entry.expires == other and name < first) then first = name end
    end
    swept = bury(account, first) or swept
  end
  return swept
end

-- Commits what is new; gives what is to be remembered of the replica's total.
local function commit(account, s)
  local heard = account.entries[replica] and account.entries[replica].total
  if s.kind == 'b' then
    local delta = within(s.total - (heard or s.acked), -MAX_UNITS, MAX_UNITS)
    set(account, 'L', within(account.L + delta, 0, MAX_UNITS))
    if account.L == 0 then set(account, 'D', 0) end
    return s.total
  elseif s.kind == 'c' then
    local share = heard or take_back(account, replica)
    return s.period == account.P and math.max(0, s.total) or share
  end
  return 0
end

local function committed(account, s)
  if s.kind == 'b' then return account.L end
  local all = 0
  if s.kind == 'c' then
    all = account.B
    for _, entry in pairs(account.entries) do all = sum(all, math.max(0, entry.total)) end
  end
  return all
end

local function grant(s, left)
  local free = math.max(0, left - s.floor)
  if free < s.least then return 0 end
  local needed = math.min(s.want, free)
  local share = math.min(s.spare, div(free - needed, SHARES * sharers))
  return needed + share - math.fmod(share, math.max(1, s.least))
end

local function lifetime(account, s)
  if s.kind == 'b' then return time_bound(s, account.L) + 2 * ttl end
  if s.kind == 's' then return 3 * ttl end
  for i = 1, 4 do
    if s.starts[i] > account.P then return math.max(0, s.starts[i] - now) + DAY end
  end
  return MAX_TIME
end

local function apply(s)
  local account = read(s.key, s.past)
  if not advance(account, s) then
    return 0, 0, 0, 0, s.kind == 'c' and period_at(s.starts) or 0, 1, 0
  end
  local swept = sweep(account)
  local remembered = commit(account, s)
  local others = 0
  for name, entry in pairs(account.entries) do
    if name ~= replica then others = sum(others, entry.outstanding) end
  end
  local entry = { outstanding = s.outstanding, expires = now + ttl, total = remembered }
  put(account, replica, entry)
  local used = committed(account, s)
  local granted = grant(s, math.max(0, s.capacity - sum(used, sum(s.outstanding, others))))
  entry.outstanding = sum(s.outstanding, granted)
  write(account, lifetime(account, s))
  return granted, used, account.D or 0, others, account.P or 0, 0, swept and 1 or 0
end

local answer = { now }
local key, at = 2, 4
while key <= #KEYS do
  local calendar = ARGV[at] == 'c'
  local s = statement(KEYS[key], calendar and KEYS[key + 1] or nil, at)
  for _, figure in ipairs({ apply(s) }) do answer[#answer + 1] = figure end
  key = key + (calendar and 2 or 1)
  at = at + WIDTH
end
return answer
