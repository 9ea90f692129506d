// One chat completion, streamed or not, with its checks. No thresholds here: those are the scenario's.

import http from 'k6/http';
import { check } from 'k6';
import { config } from './config.js';
import { record, timing, truncated } from './metrics.js';

const TIMEOUT = '60s';

function post(path, payload, name) {
  return http.post(`${config.baseUrl}${path}`, JSON.stringify(payload), {
    headers: {
      'content-type': 'application/json',
      authorization: `Bearer ${config.apiKey}`,
      'x-weir-timing': '1',
    },
    // One name per kind of request: k6 would otherwise make a time series per URL.
    tags: { name },
    timeout: TIMEOUT,
  });
}

function messages(prompt) {
  return [
    { role: 'system', content: 'You answer shortly.' },
    { role: 'user', content: prompt },
  ];
}

// A streamed answer must be whole: terminal event, timing comment, and no error event inside the 200.
export function streamed(prompt) {
  const payload = { model: config.model, stream: true, max_tokens: config.maxTokens, messages: messages(prompt) };
  const response = post('/v1/chat/completions', payload, 'chat stream');
  const body = response.body || '';
  const figures = timing(body);
  const whole = /^data: \[DONE\]$/m.test(body);
  truncated.add(!whole, { name: 'chat stream' });
  const good = check(response, {
    'stream: status 200': (r) => r.status === 200,
    'stream: event stream': (r) => String(r.headers['Content-Type']).startsWith('text/event-stream'),
    'stream: request id': (r) => Boolean(r.headers['X-Request-Id']),
    'stream: ends with [DONE]': () => whole,
    'stream: no error event': () => !/^data: \{"error"/m.test(body),
    'stream: timing comment': () => figures !== null && figures.out > 0,
  });
  if (good) record(figures, { name: 'chat stream' });
  return good;
}

// A whole answer has text and counts.
export function whole(prompt) {
  const payload = { model: config.model, max_tokens: config.maxTokens, messages: messages(prompt) };
  const response = post('/v1/chat/completions', payload, 'chat');
  return check(response, {
    'chat: status 200': (r) => r.status === 200,
    'chat: text': (r) => r.status === 200 && Boolean(r.json('choices.0.message.content')),
    'chat: counts': (r) => r.status === 200 && r.json('usage.completion_tokens') > 0,
    'chat: request id': (r) => Boolean(r.headers['X-Request-Id']),
  });
}
