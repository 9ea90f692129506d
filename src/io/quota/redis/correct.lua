
-- Takes the rows' word on replicas that are gone. KEYS: calendar accounts, each with its past. ARGV: 8 words per
-- correction: which key (the past's place), period, replica, what its rows say; four beginnings of periods or nothing.
-- Answers by how much each has changed its account's sum.

local accounts, answer = {}, {}

local function account_at(place, period)
  local account = accounts[place]
  if account then return account end
  account = read(KEYS[place - 1], KEYS[place])
  accounts[place] = account
  if not account.P then
    -- Not known: rows are all that there is. A statement says whether this is the present period.
    redis.call('DEL', account.past)
    set(account, 'P', period)
    set(account, 'B', 0)
    set(account, 'U', 1)
  end
  return account
end

-- Begins a period of a calendar of which the one that counted is none.
local function begin_anew(account, period, starts)
  local is_of_it = has(starts, account.P) and (account.U ~= 1 or account.P == period)
  if is_of_it or not has(starts, period) then return end
  begin(account, period, 0)
  set(account, 'U', 1)
end

local function correct(account, period, starts, replica, share)
  local entry = account.entries[replica]
  if entry and entry.expires <= now then
    bury(account, replica)
    entry = nil
  end
  if starts[1] then begin_anew(account, period, starts) end
  if account.P ~= period then return 0 end
  if entry then
    -- One that lives and has stated something in this period knows better.
    if account.U ~= 1 then return 0 end
    local before = entry.total
    entry.total = share
    put(account, replica, entry)
    return share - before
  end
  local known = redis.call('HEXISTS', account.past, replica) == 1
  if not known and redis.call('HLEN', account.past) >= MAX_PAST then return 0 end
  local before = account.B
  take_back(account, replica)
  keep_share(account, replica, share)
  return account.B - before
end

for at = 1, #ARGV - 7, 8 do
  local period = tonumber(ARGV[at + 1])
  local account = account_at(tonumber(ARGV[at]), period)
  local starts = { tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]) }
  answer[#answer + 1] = correct(account, period, starts, ARGV[at + 2], within(tonumber(ARGV[at + 3]), 0, MAX_UNITS))
end
for _, account in pairs(accounts) do
  local left = redis.call('PTTL', account.key)
  write(account, left > 0 and left or DAY)
end
return answer
