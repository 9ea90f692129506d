// Reports of a run: OUT/NAME.json (all figures) and OUT/NAME.txt (also on standard output). `handleSummary` of a
// scenario is `summaryTo('name')`. No download: k6's own text summary is not available to scripts.

import { config } from './config.js';

const rounded = (value) => (Number.isFinite(value) ? Math.round(value * 100) / 100 : value);

function line(name, metric) {
  const figures = Object.entries(metric.values).map(([key, value]) => `${key}=${rounded(value)}`);
  return `  ${name.padEnd(34)} ${figures.join(' ')}`;
}

function verdicts(metrics) {
  const found = [];
  for (const [name, metric] of Object.entries(metrics)) {
    for (const [rule, verdict] of Object.entries(metric.thresholds || {})) {
      found.push(`  ${verdict.ok ? 'ok  ' : 'FAIL'} ${name}: ${rule}`);
    }
  }
  return found;
}

function failedChecks(group) {
  const own = (group.checks || []).filter((check) => check.fails > 0);
  const told = own.map((check) => `  FAIL ${check.name}: ${check.fails} of ${check.fails + check.passes}`);
  return (group.groups || []).reduce((all, inner) => all.concat(failedChecks(inner)), told);
}

export function summaryTo(name) {
  return (data) => {
    const metrics = Object.entries(data.metrics).sort(([a], [b]) => (a < b ? -1 : 1));
    const parts = [`${name}: ${config.baseUrl}, model ${config.model}`, 'metrics'];
    parts.push(...metrics.map(([metric, values]) => line(metric, values)));
    parts.push('checks that failed', ...failedChecks(data.root_group), 'thresholds', ...verdicts(data.metrics), '');
    const text = parts.join('\n');
    return {
      stdout: text,
      [`${config.out}/${name}.txt`]: text,
      [`${config.out}/${name}.json`]: JSON.stringify(data, null, 1),
    };
  };
}
