// Checks with the framework detection in Vercel's npm packages that Vercel takes this repository for a Rust project,
// and that the documentation names only presets that Vercel offers by default.
//
//   node presets.mjs PACKAGES-FOLDER REPOSITORY PAGE

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [packages, repository, page] = process.argv.slice(2);
const require = createRequire(join(packages, 'node_modules/'));
const { detectFramework, LocalFileSystemDetector } = require('@vercel/fs-detectors');
const { frameworkList } = require('@vercel/frameworks');

const fs = new LocalFileSystemDetector(repository);
const detected = await detectFramework({ fs, frameworkList });
assert.equal(detected, 'rust', 'what Vercel detects');

// "Other" means no framework.
const offered = new Set(frameworkList.filter(({ experimental, slug }) => !experimental && slug).map(({ name }) => name)).add('Other');
const row = readFileSync(page, 'utf8').match(/^\| Framework Preset \|(.*)\|$/m);
assert(row, `${page} has a row "Framework Preset"`);
for (const preset of row[1].split('|').map((cell) => cell.trim()))
  assert(offered.has(preset), `${page} names the preset ${preset}, which Vercel does not offer by default`);

const services = JSON.parse(readFileSync(join(repository, 'vercel.json'), 'utf8')).services;
for (const { framework } of Object.values(services))
  assert(!framework || frameworkList.some(({ slug, experimental }) => slug === framework && !experimental), `vercel.json names the framework ${framework}, which Vercel does not offer by default`);
