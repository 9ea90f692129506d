-- How an account is kept, for the scripts that are put behind this: the arithmetic of logic/quota/ledger/account.rs,
-- word for word where it can be. A test holds the two together.
--
-- An account is a hash. Buckets: L level, D what has drained of the next unit, A up to when. Calendars: P beginning of
-- the period, B base, U made from rows and not yet used; and a second hash of what replicas that are gone have
-- committed, by replica. All kinds: r:REPLICA is 'OUTSTANDING EXPIRES TOTAL' of a replica that lives.
-- Numbers are whole and below 2^53; times are milliseconds of this server's clock.

local MAX_UNITS = 9007199254740991
local MAX_REPLICAS = 256
local MAX_PAST = 512
local DAY = 86400000
local MAX_TIME = 400 * DAY

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number) return string.format('%.0f', number) end

local function sum(one, other) return math.min(one + other, MAX_UNITS) end

local function within(number, low, high) return math.max(low, math.min(number, high)) end

-- math.floor(a / b) is not exact for the largest numbers.
local function div(a, b) return (a - math.fmod(a, b)) / b end

local function read(key, past)
  -- dirty: by field of the hash, what it is to be: a number, an entry, or false for gone.
  local account = { key = key, past = past, entries = {}, dirty = {} }
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    if string.sub(name, 1, 2) == 'r:' then
      local outstanding, expires, total = string.match(value, '^(%d+) (%d+) (-?%d+)$')
      account.entries[string.sub(name, 3)] = {
        outstanding = tonumber(outstanding) or 0, expires = tonumber(expires) or 0, total = tonumber(total) or 0,
      }
    elseif #name == 1 then
      account[name] = tonumber(value)
    end
  end
  return account
end

local function set(account, name, value)
  account[name] = value
  account.dirty[name] = value
end

local function put(account, replica, entry)
  account.entries[replica] = entry
  account.dirty['r:' .. replica] = entry
end

local function drop(account, replica)
  account.entries[replica] = nil
  account.dirty['r:' .. replica] = false
end

local function write(account, expires_in)
  local stays, goes = {}, {}
  for name, value in pairs(account.dirty) do
    if not value then
      goes[#goes + 1] = name
    else
      stays[#stays + 1] = name
      stays[#stays + 1] = type(value) == 'number' and text(value)
        or text(value.outstanding) .. ' ' .. text(value.expires) .. ' ' .. text(value.total)
    end
  end
  if #stays > 0 then redis.call('HSET', account.key, unpack(stays)) end
  if #goes > 0 then redis.call('HDEL', account.key, unpack(goes)) end
  redis.call('PEXPIRE', account.key, text(expires_in))
  if account.past then redis.call('PEXPIRE', account.past, text(expires_in)) end
end

-- Keeps the share of a replica that has gone.
local function keep_share(account, replica, share)
  if share <= 0 then return end
  set(account, 'B', sum(account.B, share))
  if redis.call('HLEN', account.past) < MAX_PAST then redis.call('HSET', account.past, replica, text(share)) end
end

-- The share of a replica that is back.
local function take_back(account, replica)
  local share = tonumber(redis.call('HGET', account.past, replica) or 0)
  if share > 0 then
    redis.call('HDEL', account.past, replica)
    set(account, 'B', math.max(0, account.B - share))
  end
  return share
end

-- Drops a replica's entry; its share of a period stays. True if that may not be all that it has used: it had something
-- out, or a share to which it may not have stated its last units.
local function bury(account, replica)
  local entry = account.entries[replica]
  drop(account, replica)
  if account.past then keep_share(account, replica, entry.total) end
  return entry.outstanding > 0 or (account.past and entry.total > 0) or false
end

local function has(starts, period)
  for i = 1, 4 do
    if starts[i] == period then return true end
  end
  return false
end

-- Begins a period; no replica has stated a share of it.
local function begin(account, period, base)
  set(account, 'P', period)
  set(account, 'B', base)
  redis.call('DEL', account.past)
  for name, entry in pairs(account.entries) do
    entry.total = 0
    put(account, name, entry)
  end
end
