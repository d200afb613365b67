// Reads a JSON array of {language, text} and writes the tree of each: [name, from, to, children]. What a grammar does not
// take is a node named ⚠.

import { readFileSync } from 'node:fs';
import { parser as logql } from '@grafana/lezer-logql';
import { parser as traceql } from '@grafana/lezer-traceql';
import { parser as promql } from '@prometheus-io/lezer-promql';

const PARSERS = { logql, promql, traceql };

function tree({ name, from, to, node }) {
  const children = [];
  for (let child = node.firstChild; child; child = child.nextSibling) children.push(tree(child));
  return [name, from, to, children];
}

const asked = JSON.parse(readFileSync(0, 'utf8'));
const trees = asked.map(({ language, text }) => tree(PARSERS[language].parse(text).topNode));
process.stdout.write(JSON.stringify(trees));
