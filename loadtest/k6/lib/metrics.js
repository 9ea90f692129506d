// The metrics of LLM traffic, from what Weir reports at the end of a stream (`x-weir-timing: 1`), since stock k6 sees a
// body only when it is whole. TTFT: request received to first content; TPOT: (last - first token) / (tokens - 1).
// Names as in the k6 SSE community's examples where they have one.

import { Counter, Rate, Trend } from 'k6/metrics';

export const ttft = new Trend('llm_ttft_ms', true);
export const tpot = new Trend('llm_tpot_ms', true);
export const queue = new Trend('llm_queue_ms', true);
export const overhead = new Trend('weir_overhead_us');
export const promptTokens = new Counter('llm_prompt_tokens');
export const completionTokens = new Counter('llm_completion_tokens');
export const cachedTokens = new Counter('llm_cached_tokens');
export const truncated = new Rate('llm_completions_truncated_rate');

const COMMENT = /^: weir (\S+)$/m;

// The figures of the timing comment, or null where there is none.
export function timing(body) {
  const found = COMMENT.exec(body || '');
  if (found === null) return null;
  const figures = {};
  for (const pair of found[1].split(';')) {
    const at = pair.indexOf('=');
    const value = pair.slice(at + 1);
    figures[pair.slice(0, at)] = value !== '' && Number.isFinite(Number(value)) ? Number(value) : value;
  }
  return figures;
}

// Feeds one stream's figures; `tags` name the surface.
export function record(figures, tags) {
  const feed = (metric, value) => {
    if (typeof value === 'number') metric.add(value, tags);
  };
  feed(ttft, figures.ttft_ms);
  feed(tpot, figures.tpot_ms);
  feed(queue, figures.queue_ms);
  feed(overhead, figures.overhead_us);
  feed(promptTokens, figures.in);
  feed(completionTokens, figures.out);
  feed(cachedTokens, figures.cached);
}
