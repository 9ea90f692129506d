// Smoke: does it do its job at all, under a light, open load of streams and whole answers? A quarter of the prompts
// share a long prefix. Runs against `weir quickstart`: scripts/k6 loadtest/k6/smoke.js

import exec from 'k6/execution';
import { config, openLoop } from './lib/config.js';
import { streamed, whole } from './lib/chat.js';
import { summaryTo } from './lib/summary.js';

const SHARED = 'A weir holds back the river and lets it flow in measure. '.repeat(40);

export const options = {
  scenarios: {
    streams: openLoop('streams', { rate: 8, duration: '10s', longestSeconds: 10 }, 'streams'),
    answers: openLoop('answers', { rate: 4, duration: '10s', longestSeconds: 10 }, 'answers'),
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    // An open loop that could not start its requests has measured nothing.
    dropped_iterations: ['count==0'],
    // Simulated engines need about 10 ms for a short prompt; the rest is room for a busy two-core machine.
    llm_ttft_ms: ['p(95)<500'],
    llm_completions_truncated_rate: ['rate==0'],
    'http_req_duration{name:chat}': ['p(95)<5000'],
  },
  summaryTrendStats: ['min', 'med', 'avg', 'p(90)', 'p(95)', 'p(99)', 'max'],
};

export function setup() {
  if (config.apiKey === '') throw new Error('API_KEY is empty: `. var/quickstart.env` or pass -e API_KEY=...');
}

function prompt() {
  const turn = exec.scenario.iterationInTest;
  return turn % 4 === 0 ? `${SHARED} Question ${turn}: how high is the crest?` : `Question ${turn}: what is a weir?`;
}

export function streams() {
  streamed(prompt());
}

export function answers() {
  whole(prompt());
}

export const handleSummary = summaryTo('smoke');
