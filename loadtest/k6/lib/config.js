// What a scenario is told from outside, in one place. `k6 run -e RATE=50 -e DURATION=2m ...`; scripts/k6 passes the
// names of quickstart.env on.

function number(name, fallback) {
  const text = __ENV[name];
  if (text === undefined || text === '') return fallback;
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new Error(`${name}=${text}: a number above 0 is needed`);
  return value;
}

export const config = {
  baseUrl: (__ENV.BASE_URL || 'http://127.0.0.1:8080').replace(/\/+$/, ''),
  apiKey: __ENV.API_KEY || '',
  model: __ENV.MODEL || 'sim-8b',
  // Requests started per second, whatever the answers do: open loop.
  rate: number('RATE', 0),
  // k6's own form: 30s, 5m.
  duration: __ENV.DURATION || '',
  // Tokens per answer.
  maxTokens: number('MAX_TOKENS', 16),
  // Folder of the reports.
  out: __ENV.OUT || 'out',
};

// An open-loop scenario. Enough virtual users that a slow answer delays no start: rate x longest answer, and twice that.
export function openLoop(name, defaults, exec) {
  const rate = config.rate || defaults.rate;
  const needed = Math.ceil(rate * defaults.longestSeconds);
  return {
    executor: 'constant-arrival-rate',
    rate,
    timeUnit: '1s',
    duration: config.duration || defaults.duration,
    preAllocatedVUs: needed,
    maxVUs: needed * 2,
    gracefulStop: `${defaults.longestSeconds}s`,
    exec,
    tags: { scenario: name, model: config.model },
  };
}
